//! What is made from the command line's own description: completions for shells, and man pages.

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

/// Prints the completions for a shell.
///
/// # Errors
/// Standard output cannot be written to.
pub fn print_completions(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut described(), "xlb", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}

/// Writes `xlb.1`, and a page for each command, into a directory that exists.
///
/// # Errors
/// A file cannot be written.
pub fn write_man_pages(directory: &Path) -> Result<()> {
    // The pages of `help` would say what those of the commands say.
    let command = described().disable_help_subcommand(true);
    clap_mangen::generate_to(command, directory).with_context(|| format!("{}: man pages cannot be written", directory.display()))
}

fn described() -> Command {
    super::Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_is_completed() {
        let directory = std::env::temp_dir().join(format!("xlb-man-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        write_man_pages(&directory).unwrap();
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut described(), "xlb", &mut script);
        let script = String::from_utf8(script).unwrap();
        for command in ["run", "check", "doctor", "status", "top", "events", "drain", "weight", "reset", "reload", "completions"]
        {
            let page = std::fs::read_to_string(directory.join(format!("xlb-{command}.1"))).unwrap();
            assert!(page.contains(".SH DESCRIPTION"), "{command}");
            assert!(script.contains(command), "{command}");
        }
        assert!(directory.join("xlb.1").is_file());
        assert!(!directory.join("xlb-man.1").exists(), "what is for packagers is hidden");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn the_description_contradicts_itself_nowhere() {
        described().debug_assert();
    }
}
