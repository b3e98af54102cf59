//! What checks by a program have of their own.

use toml::de::DeValue;

use crate::config::report::Problems;
use crate::config::section::{Fault, Section};
use crate::config::values;
use crate::health::Script;

pub(super) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Option<Script> {
    let help = "name a program, and its arguments: `command = [\"/usr/local/lib/xlb/check-disk\", \"90\"]`";
    section.required("command", help, problems, command).map(|script| script.value)
}

fn command(value: &DeValue<'_>) -> Result<Script, Fault> {
    const HELP: &str = "write a list of strings: the program's absolute path, then its arguments; no shell reads them";
    let words = value.as_array().ok_or_else(|| Fault::new("expected a list, a program and its arguments", HELP))?;
    let word = |word: &DeValue<'_>| match values::string(word, "a program or an argument")? {
        text if text.contains('\0') => Err(Fault::new("no argument has a zero byte in it", HELP)),
        text => Ok(text.to_owned()),
    };
    let words: Vec<String> = words.iter().map(|found| word(found.get_ref())).collect::<Result<_, _>>()?;
    match words.split_first() {
        Some((program, arguments)) if program.starts_with('/') => {
            Ok(Script { program: program.clone(), arguments: arguments.to_vec() })
        }
        Some(_) => Err(Fault::new("the program is not an absolute path", HELP)),
        None => Err(Fault::new("an empty list", HELP)),
    }
}
