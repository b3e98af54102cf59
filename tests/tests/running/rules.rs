//! The alert rules, checked and tried by Prometheus' own tool.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::queries;
use super::support::{path, read};

const RULES: &str = "config/prometheus/xlb.rules.yml";
const TESTS: &str = "config/prometheus/xlb.rules.test.yml";

/// Each rule's name, and what stands below it.
fn rules() -> Result<Vec<(String, String)>> {
    let text = read(RULES)?;
    let rules = text.split("- alert: ").skip(1).map(|rule| rule.split_once('\n').context("a rule"));
    rules.map(|rule| rule.map(|(name, rule)| (name.to_owned(), rule.to_owned()))).collect()
}

fn promtool(arguments: &[&str]) -> Result<()> {
    let output = Command::new("promtool").args(arguments).output().context("promtool, of Debian's package prometheus")?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "promtool {arguments:?}:\n{}", String::from_utf8_lossy(&said));
    Ok(())
}

#[test]
#[ignore = "needs promtool; run by cargo xtask test as root"]
fn each_rule_is_sound_and_fires_when_it_should() -> Result<()> {
    let file = |name| path(name).display().to_string();
    promtool(&["check", "rules", "--lint-fatal", &file(RULES)])?;
    promtool(&["test", "rules", &file(TESTS)])
}

#[test]
fn each_alert_is_tried_both_ways() -> Result<()> {
    let tests = read(TESTS)?;
    for (name, _) in rules()? {
        let outcomes: Vec<&str> = tests
            .split("- alertname: ")
            .skip(1)
            .filter_map(|test| test.strip_prefix(&name)?.strip_prefix('\n'))
            .filter_map(|test| test.lines().nth(1))
            .map(str::trim)
            .collect();
        ensure!(outcomes.contains(&"exp_alerts:"), "{name}: no test has it fire");
        ensure!(outcomes.contains(&"exp_alerts: []"), "{name}: no test has it not fire");
    }
    Ok(())
}

#[test]
fn each_alert_asks_for_what_is_exported_and_says_what_to_do() -> Result<()> {
    let rules = rules()?;
    ensure!(rules.len() > 10, "{} rules", rules.len());
    for (name, rule) in rules {
        let n_metrics = queries::check(&rule).with_context(|| name.clone())?;
        ensure!(n_metrics > 0 || rule.contains("up{job=\"xlb\"}"), "{name} asks for nothing");
        for key in ["severity: ", "summary: ", "description: ", "action: "] {
            ensure!(rule.lines().any(|line| line.trim().starts_with(key) && line.trim().len() > key.len()), "{name}: no {key}");
        }
    }
    Ok(())
}
