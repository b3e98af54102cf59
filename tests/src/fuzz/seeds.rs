//! Where fuzzers begin: inputs that reach far, from which they go on.

use crate::path::{cases, decap};

/// Configurations that are complete.
const CONFIGS: [(&str, &str); 2] =
    [("full", include_str!("../../../config/full.toml")), ("minimal", include_str!("../../../config/minimal.toml"))];

/// Sequences as `tables` reads them: services put, backends added, taken away, moved, while time passes.
const TABLES: [(&str, &[u8]); 4] = [
    ("one-service", &[1, 0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 2, 0, 0, 3, 0, 0, 0, 0, 0]),
    ("a-backend-leaves", &[1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0, 4, 1, 0, 0, 5, 1, 0, 0]),
    ("nat-v6", &[1, 1, 0, 2, 0, 0, 0, 1, 1, 3, 1, 0, 0, 2, 1, 2, 3, 2, 3, 4, 1, 1, 1, 3, 4, 0, 4, 6, 0, 0]),
    ("two-change-names", &[2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 1, 2, 0, 0, 2, 1, 0, 2, 2, 1, 2, 0]),
];

/// A target's seeds, with names for files.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    match target {
        "packet" => {
            let sent = cases::all().into_iter().map(|case| (file_name(case.name), case.packet));
            let in_tunnels = decap::all().into_iter().map(|case| (file_name(&case.name), case.packet));
            sent.chain(in_tunnels).collect()
        }
        "config" => CONFIGS.iter().map(|(name, text)| ((*name).into(), text.as_bytes().to_vec())).collect(),
        "tables" => TABLES.iter().map(|(name, bytes)| ((*name).into(), bytes.to_vec())).collect(),
        _ => Vec::new(),
    }
}

/// A case's name as that of a file.
fn file_name(name: &str) -> String {
    let words: Vec<String> = name
        .split(|character: char| !character.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}
