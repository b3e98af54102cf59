//! How the demo looks: titles, claims with a check mark, notes, and small bars.

use crate::paint::{BOLD, DIM, GREEN, Paint, RED};

/// Bars are full at twice an even share of five.
const BAR_FULL: f64 = 0.4;
const BAR_CELLS: f64 = 6.0;
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// Prints, and keeps what did not hold.
pub struct Show {
    paint: Paint,
    section: String,
    n_claims: usize,
    failed: Vec<String>,
}

impl Show {
    pub fn new() -> Self {
        Self { paint: Paint::of(&std::io::stdout()), section: String::new(), n_claims: 0, failed: Vec::new() }
    }

    /// Begins a section.
    pub fn title(&mut self, title: &str) {
        self.section = title.to_owned();
        println!("\n{}", self.paint.painted(BOLD, title));
    }

    /// Something that has to hold, with the figures that show it.
    pub fn claim(&mut self, holds: bool, text: &str) {
        self.n_claims += 1;
        let mark = if holds { self.paint.painted(GREEN, "✓") } else { self.paint.painted(RED, "✗") };
        println!("  {mark} {}", text.trim_end());
        if !holds {
            self.failed.push(format!("  {}: {}", self.section, text.trim()));
        }
    }

    /// Something worth knowing that need not hold.
    pub fn note(&self, text: &str) {
        for line in text.lines() {
            println!("{}", format!("    {}", self.paint.painted(DIM, line.trim_end())).trim_end());
        }
    }

    /// A command to paste, below what it does.
    pub fn suggestion(&self, what: &str, command: &str) {
        println!("  {}\n    {command}", self.paint.painted(DIM, &format!("# {what}")));
    }

    /// The last line.
    pub fn end(&self, text: &str) {
        println!("\n{} {text}", self.paint.painted(GREEN, "✓"));
    }

    pub fn n_claims(&self) -> usize {
        self.n_claims
    }

    /// The claims that did not hold, each with its section.
    pub fn failed(&self) -> Vec<String> {
        self.failed.clone()
    }
}

/// Counts side by side, each with a bar for its share of their sum, under the names that [`names`] prints.
pub fn bars(counts: &[usize]) -> String {
    let sum = counts.iter().sum::<usize>().max(1) as f64;
    counts.iter().map(|&count| format!("{count:>5} {}", bar(count as f64 / sum))).collect::<Vec<_>>().join(" ")
}

/// The heads of the columns that [`bars`] fills.
pub fn names(n: usize) -> String {
    (0..n).map(|i| format!("{:<12}", format!(" backend{i}"))).collect::<Vec<_>>().join(" ")
}

fn bar(share: f64) -> String {
    let eighths = (share.min(BAR_FULL) / BAR_FULL * BAR_CELLS * 8.0).round() as usize;
    let bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
    format!("{bar:<width$}", width = BAR_CELLS as usize)
}

/// With commas between thousands.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_off() {
        assert_eq!([0, 12, 123, 1234, 123_456, 1_234_567].map(thousands), ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }

    #[test]
    fn an_even_share_fills_half_a_bar() {
        assert_eq!([bar(0.2), bar(0.0), bar(1.0)], ["███   ", "      ", "██████"]);
        assert_eq!(bars(&[1, 4]), "    1 ███        4 ██████");
    }
}
