//! Colours, where somebody looks: on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).

use std::ffi::OsStr;
use std::io::IsTerminal;

pub const BOLD: &str = "1";
pub const DIM: &str = "2";
pub const RED: &str = "1;31";
pub const GREEN: &str = "32";

/// Paints what is printed to one stream, or leaves it as it is.
#[derive(Clone, Copy)]
pub struct Paint {
    is_on: bool,
}

impl Paint {
    /// For what goes to this stream.
    pub fn of(stream: &impl IsTerminal) -> Self {
        Self::by(stream.is_terminal(), std::env::var_os("NO_COLOR").as_deref())
    }

    fn by(is_terminal: bool, no_color: Option<&OsStr>) -> Self {
        Self { is_on: is_terminal && no_color.is_none_or(OsStr::is_empty) }
    }

    /// The text in this colour.
    pub fn painted(self, colour: &str, text: &str) -> String {
        if self.is_on && !text.is_empty() { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_gets_colours_and_none_where_no_color_says_so() {
        for (is_terminal, no_color, expected) in [
            (true, None, "\x1b[2mtext\x1b[0m"),
            (true, Some(""), "\x1b[2mtext\x1b[0m"),
            (true, Some("1"), "text"),
            (false, None, "text"),
            (false, Some(""), "text"),
        ] {
            assert_eq!(
                Paint::by(is_terminal, no_color.map(OsStr::new)).painted(DIM, "text"),
                expected,
                "{is_terminal} {no_color:?}"
            );
        }
    }
}
