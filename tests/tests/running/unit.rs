//! The systemd unit.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::support::{path, read};

const UNIT: &str = "config/xlb.service";
/// Of ten; lower is less exposed. What is left are capabilities, sockets and the host's network, which it is there for.
const EXPOSURE_MAX: f64 = 2.5;
/// A port that anybody can connect to.
const AGENT_EXPOSURE_MAX: f64 = 1.5;

/// The value of a key that stands once.
pub fn value(key: &str) -> Result<String> {
    let unit = read(UNIT)?;
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().with_context(|| format!("{UNIT} has no {key}"))?.to_owned();
    ensure!(values.next().is_none(), "{UNIT} has more than one {key}");
    Ok(value)
}

fn analyze(arguments: &[&str]) -> Result<String> {
    let output = Command::new("systemd-analyze").args(arguments).arg("--no-pager").output();
    let output = output.context("systemd-analyze, of Debian's package systemd")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "systemd-analyze {arguments:?}:\n{said}");
    Ok(said)
}

#[test]
#[ignore = "needs systemd-analyze; run by cargo xtask test as root"]
fn systemd_finds_nothing_wrong_with_it_and_little_exposed() -> Result<()> {
    is_right_and_exposed_at_most(UNIT, EXPOSURE_MAX)
}

#[test]
#[ignore = "needs systemd-analyze; run by cargo xtask test as root"]
fn systemd_finds_nothing_wrong_with_the_agents_and_next_to_nothing_exposed() -> Result<()> {
    is_right_and_exposed_at_most("config/xlb-agent.service", AGENT_EXPOSURE_MAX)
}

fn is_right_and_exposed_at_most(unit: &str, exposure_max: f64) -> Result<()> {
    // Its programs are not installed here: those that are, stand in.
    let directory = tempfile::tempdir()?;
    let stand_in = directory.path().join(path(unit).file_name().context("a file")?);
    std::fs::write(&stand_in, read(unit)?.replace("/usr/bin/xlb", "/bin/true"))?;
    let said = analyze(&["verify", "--man=no", &stand_in.display().to_string()])?;
    ensure!(said.trim().is_empty(), "{said}");
    let unit = path(unit).display().to_string();
    let said = analyze(&["security", "--offline=true", &unit])?;
    let exposure = said.lines().find_map(|line| line.split_once("Overall exposure level for ")?.1.split_whitespace().nth(1));
    let exposure: f64 = exposure.with_context(|| said.clone())?.parse()?;
    ensure!(exposure <= exposure_max, "{exposure} of 10, more than {exposure_max}:\n{said}");
    Ok(())
}

#[test]
fn it_starts_only_where_a_service_is_configured() -> Result<()> {
    let condition = value("ExecCondition")?;
    let pattern = condition.split('"').nth(1).context("a pattern")?.replace("\\\\", "\\");
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("xlb.toml");
    let cases = [
        (read("config/xlb.toml")?, false),
        ("# [[service]]\n".into(), false),
        ("[[service.backend]]\n".into(), false),
        (read("config/minimal.toml")?, true),
        ("[xdp]\n  [[ service ]] # one\n".into(), true),
    ];
    for (text, starts) in cases {
        std::fs::write(&config, &text)?;
        let found = Command::new("grep").arg("-q").arg(&pattern).arg(&config).status()?;
        ensure!(found.success() == starts, "{text}");
    }
    Ok(())
}
