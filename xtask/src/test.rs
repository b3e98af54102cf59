//! `cargo xtask test`: everything that has to hold before a change is shown to others.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use xlb_tests::World;

use crate::{command, ebpf, setup, workspace};

/// Namespace tests start many processes each, and some measure times: more at once would disturb each other.
const TEST_THREADS: &str = "--test-threads=2";

/// Programs whose tests run daemons and servers by the clock. A machine that stands still for a second can fail one of them; a
/// run of its own tells that from a fault.
const BY_THE_CLOCK: [&str; 6] = ["--test", "health", "--test", "net", "--test", "running"];

/// More failures than these are not put down to the machine.
const SECOND_RUNS_MAX: usize = 3;

/// What `cargo test` reported, over all its test programs.
#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// The names of those that failed.
    failures: Vec<String>,
}

/// Sets up, builds, checks and tests. With `arguments` (as for `cargo test`: a filter, options, `--` and more) runs only
/// the tests they name, without formatting and lints.
///
/// # Errors
/// Anything is not as it should be; without root also the tests that need it, if the environment says `CI`.
pub fn run(arguments: &[String]) -> Result<()> {
    let start = Instant::now();
    setup::run(setup::For::Everything)?;
    let is_whole = arguments.is_empty();
    // What fails soonest comes first.
    if is_whole {
        check_format()?;
    }
    let xlb = ebpf::build_xlb()?;
    let object = ebpf::path(ebpf::Object::Xlb)?;
    if is_whole {
        lint()?;
    }

    let (cargo_arguments, test_arguments) = match arguments.iter().position(|argument| argument == "--") {
        Some(at) => (&arguments[..at], &arguments[at + 1..]),
        None => (arguments, &[][..]),
    };
    let seed = seed();
    println!("property tests draw their cases from PROPTEST_RNG_SEED={seed}");
    let cargo_test = |programs: &[&str], harness: &[&str]| {
        let mut command = command::cargo();
        command
            .current_dir(workspace::root())
            .args(["test", "--workspace", "--features", "lb-common/alloc", "--no-fail-fast"])
            .args(cargo_arguments)
            .args(programs)
            .arg("--")
            .args(harness)
            .args(test_arguments)
            .env("XLB_BIN", &xlb)
            .env("XLB_OBJECT", &object)
            .env("PROPTEST_RNG_SEED", seed.to_string())
            // Errors say what happened by themselves.
            .env("RUST_LIB_BACKTRACE", "0");
        command
    };

    let is_root = command::is_root();
    if is_root {
        World::sweep()?;
    }
    let harness: &[&str] = if is_root { &[TEST_THREADS, "--include-ignored"] } else { &[TEST_THREADS] };
    let (mut counts, mut succeeded) = counted(&mut cargo_test(&[], harness))?;
    let mut failed_once = Vec::new();
    if is_root && is_whole && (1..=SECOND_RUNS_MAX).contains(&counts.failures.len()) {
        println!("\nonce more, each alone: {}\n", counts.failures.join(", "));
        World::sweep()?;
        let mut alone = cargo_test(&BY_THE_CLOCK, &["--test-threads=1", "--include-ignored", "--exact"]);
        let (second, second_succeeded) = counted(alone.args(&counts.failures))?;
        if second_succeeded && second.passed == counts.failed {
            succeeded = true;
            counts.passed += second.passed;
            counts.failed = 0;
            failed_once = std::mem::take(&mut counts.failures);
        }
    }
    let not_run = if is_root { Vec::new() } else { ignored_tests(&mut cargo_test(&[], &["--ignored", "--list"]))? };
    let leftovers = if is_root { World::leftovers() } else { Vec::new() };

    for test in &not_run {
        eprintln!("NOT RUN, for it needs root: {test}");
    }
    for test in &failed_once {
        eprintln!("FAILED ONCE, and passed alone (what it said is above): {test}");
    }
    for path in &leftovers {
        eprintln!("left behind by a test: {}", path.display());
    }
    println!(
        "\ncargo xtask test: {} passed ({} at the second try), {} failed, {} not run, {} left behind, in {:.0} s",
        counts.passed,
        failed_once.len(),
        counts.failed,
        counts.ignored,
        leftovers.len(),
        start.elapsed().as_secs_f64()
    );
    if !succeeded || counts.failed > 0 {
        bail!("tests failed");
    }
    if counts.passed == 0 {
        bail!("no test ran: nothing is called {}", arguments.join(" "));
    }
    if !leftovers.is_empty() {
        World::sweep()?;
        bail!("tests passed, but left namespaces or pins behind (now removed)");
    }
    if !not_run.is_empty() && is_ci() {
        bail!("{} tests were not run; in CI that is an error: run as root", not_run.len());
    }
    Ok(())
}

/// What property tests draw their cases from: what the environment says, or the tree of the last commit, so that one commit has
/// one outcome wherever it is tried, and the next one other cases.
fn seed() -> u64 {
    let given = std::env::var("PROPTEST_RNG_SEED").ok().and_then(|seed| seed.parse().ok());
    let of_tree = || {
        let tree = command::output(Command::new("git").current_dir(workspace::root()).args(["rev-parse", "HEAD^{tree}"])).ok()?;
        u64::from_str_radix(tree.get(..16)?, 16).ok()
    };
    given.or_else(of_tree).unwrap_or(0)
}

fn check_format() -> Result<()> {
    for component in ["fmt", "clippy"] {
        command::output(command::cargo().args([component, "--version"]))
            .context("formatting and lints are checked too; run: rustup component add rustfmt clippy")?;
    }
    command::run(command::cargo().current_dir(workspace::root()).args(["fmt", "--all", "--check"]))
        .context("not formatted; run: cargo fmt --all")
}

/// Lints of everything that the host compiles. What only BPF compiles has no clippy in Debian's way of building.
fn lint() -> Result<()> {
    command::run(command::cargo().current_dir(workspace::root()).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        "lb-common/alloc",
        "--",
        "-D",
        "warnings",
    ]))
}

/// Runs `cargo test`, shows what it prints, and counts the results in it.
fn counted(command: &mut Command) -> Result<(Counts, bool)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let mut counts = Counts::default();
    let stdout = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        counts.add(&line);
    }
    Ok((counts, child.wait()?.success()))
}

impl Counts {
    /// Adds a line of the form `test a::b ... FAILED`, or `test result: ok. 13 passed; 0 failed; 0 ignored; ...`.
    fn add(&mut self, line: &str) {
        let failed = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
        self.failures.extend(failed.map(ToOwned::to_owned));
        let Some((_, results)) = line.strip_prefix("test result: ").and_then(|line| line.split_once(". ")) else { return };
        for result in results.split("; ") {
            let Some((number, what)) = result.split_once(' ') else { continue };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// The names of the tests that were left out.
fn ignored_tests(command: &mut Command) -> Result<Vec<String>> {
    let list = command::output(command)?;
    Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(ToOwned::to_owned).collect())
}

fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_programs_are_added_up() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test b::c ... FAILED",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            counts.add(line);
        }
        assert_eq!((counts.passed, counts.failed, counts.ignored), (3, 2, 1));
        assert_eq!(counts.failures, ["b::c"]);
    }
}
