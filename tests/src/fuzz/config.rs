//! Any text as a configuration.

use lb_user::config::{ConfigError, parse};

/// Not a name that a text would hold by chance.
const FILE: &str = "fuzzed.toml";

/// Of the problems of a text, so many are shown.
const SHOWN_MAX: usize = 30;

/// Any text is a configuration, or is refused with problems, each of which is shown with its place.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let refused = match parse(FILE, &text) {
        Ok(_) => return,
        Err(ConfigError::Refused(refused)) => refused,
        Err(error) => panic!("refused without a problem: {error}"),
    };
    assert!(refused.n_problems() > 0);
    let shown = refused.to_string();
    let places = shown.lines().filter_map(|line| line.trim_start().strip_prefix("--> ")?.strip_prefix(FILE)?.strip_prefix(':'));
    let n_lines = text.split('\n').count();
    let is_place = |place: &str| {
        let (line, column) = place.split_once(':')?;
        let (line, column): (usize, usize) = (line.parse().ok()?, column.parse().ok()?);
        Some((1..=n_lines).contains(&line) && column > 0)
    };
    let n_places = places.filter(|place| is_place(place) == Some(true)).count();
    assert!(n_places >= refused.n_problems().min(SHOWN_MAX), "{} problems, {n_places} places:\n{shown}", refused.n_problems());
}
