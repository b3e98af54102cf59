//! The example configurations.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use xlb_tests::paths;

use super::support::path;

fn all() -> Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(path("config/examples"))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.push(path("config/minimal.toml"));
    files.push(path("config/full.toml"));
    Ok(files)
}

#[test]
#[ignore = "needs the xlb binary; run by cargo xtask test"]
fn each_passes_xlb_check() -> Result<()> {
    let directory = tempfile::tempdir()?;
    for file in all()? {
        // Lists of prefixes that the machine need not have.
        let text = std::fs::read_to_string(&file)?;
        let here = |name: &str| directory.path().join(name).display().to_string();
        ["deny.txt", "allow.txt"].iter().try_for_each(|name| std::fs::write(here(name), "# nobody\n"))?;
        let text = text.replace("/etc/xlb/deny.txt", &here("deny.txt")).replace("/etc/xlb/allow.txt", &here("allow.txt"));
        let copy = directory.path().join("xlb.toml");
        std::fs::write(&copy, text)?;
        let output = Command::new(paths::xlb()?).arg("check").arg(&copy).output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "{}: {said}", file.display());
    }
    Ok(())
}

#[test]
fn each_case_has_its_picture_what_to_set_and_how_to_see_that_it_works() -> Result<()> {
    let is_case = |file: &std::path::PathBuf| file.parent().is_some_and(|directory| directory.ends_with("examples"));
    let cases: Vec<_> = all()?.into_iter().filter(is_case).collect();
    ensure!(cases.len() >= 4, "{cases:?}");
    for file in cases {
        let text = std::fs::read_to_string(&file)?;
        let header: String = text.lines().take_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        for wanted in ["--- balancer", "# On each ", "# On the ", "# To see that it works:", "xlb status"] {
            let found = header.contains(wanted);
            ensure!(found, "{}: no {wanted:?} in its header", file.display());
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the xlb binary; run by cargo xtask test"]
fn the_packaged_configuration_is_right_once_its_lines_are_switched_on() -> Result<()> {
    let text = std::fs::read_to_string(path("config/xlb.toml"))?;
    let (_, lines) = text.split_once("\n\n").context("a header")?;
    // Prose begins with a capital.
    let settings = lines.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| !line.starts_with(char::is_uppercase));
    let settings: String = settings.map(|line| format!("{line}\n")).collect();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &settings)?;
    let output = Command::new(paths::xlb()?).arg("check").arg(file.path()).output()?;
    ensure!(output.status.success(), "{}\n{settings}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
