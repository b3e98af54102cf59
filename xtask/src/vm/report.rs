//! What the machines said, as a table.

use lb_user::maps::substitute;

use super::guest::MARK;
use super::kernel::{Kernel, Source};

/// The findings on one kernel.
pub struct Report {
    name: &'static str,
    pub version: String,
    n_passed: u32,
    n_failed: u32,
    /// By the program that loaded, if it did; `-` where the kernel does not tell.
    verified: Option<String>,
    load_ms: Option<String>,
    lacking: Vec<String>,
}

impl Report {
    pub fn of(source: &Source, kernel: &Kernel, log: &str) -> Self {
        let value = |key: &str| {
            let (_, rest) = log.split_once(key)?;
            Some(rest.split_whitespace().next()?.to_owned())
        };
        let lacking = version(&kernel.release).map_or(Vec::new(), |version| {
            let substitutes = substitute::lacking(version);
            substitutes
                .map(|it| format!("{} ({}.{})", it.lacking.split(':').next().unwrap_or(""), it.since.0, it.since.1))
                .collect()
        });
        let is_whole = log.lines().any(|line| line.starts_with(MARK) && line.contains("ended 0"));
        let [n_passed, n_failed] = ["passed", "failed"].map(|what| result(log, what));
        Self {
            name: source.name,
            version: kernel.release.clone(),
            n_passed,
            // One that did not end is not among those that the harness counted.
            n_failed: n_failed.max(u32::from(!is_whole)),
            verified: value("verified_instructions="),
            load_ms: value("load_ms="),
            lacking,
        }
    }

    /// Whether all tests ran, and passed.
    pub fn is_well(&self) -> bool {
        self.n_failed == 0 && self.n_passed > 0
    }
}

/// A number of the harness's last line: a test may print between its name and its result.
fn result(log: &str, what: &str) -> u32 {
    let line = log.lines().find_map(|line| line.strip_prefix("test result: ")?.split_once(". ").map(|(_, counts)| counts));
    let counts = line.into_iter().flat_map(|line| line.split("; ")).filter_map(|count| count.split_once(' '));
    counts.filter(|(_, name)| *name == what).find_map(|(number, _)| number.parse().ok()).unwrap_or(0)
}

/// The numbers that a release begins with.
fn version(release: &str) -> Option<aya::util::KernelVersion> {
    let mut numbers = release.split(['.', '-', '+']).map_while(|number| number.parse::<u16>().ok());
    let (major, minor) = (numbers.next()?, numbers.next()?);
    Some(aya::util::KernelVersion::new(major as u8, minor as u8, numbers.next().unwrap_or(0)))
}

/// Prints a line for each kernel.
pub fn print(reports: &[Report]) {
    println!("{:<8} {:<28} {:<6} {:>9} {:>9} {:>12}  lacking", "kernel", "release", "loads", "verified", "load ms", "tests");
    for report in reports {
        let Report { name, version, n_passed, n_failed, verified, load_ms, lacking } = report;
        let loads = if verified.is_some() { "yes" } else { "no" };
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        let tests = if *n_failed == 0 { format!("{n_passed} passed") } else { format!("{n_passed}, {n_failed} fail") };
        let lacking = if lacking.is_empty() { "nothing".into() } else { lacking.join("; ") };
        println!("{name:<8} {version:<28} {loads:<6} {:>9} {:>9} {tests:>12}  {lacking}", or_none(verified), or_none(load_ms));
    }
    println!(
        "\nverified: instructions that the verifier went through (kernels tell since 5.16), times: of an emulated processor"
    );
}
