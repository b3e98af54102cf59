//! A bar chart as SVG.

use std::fmt::Write as _;

const ROW: usize = 28;
const LABELS: usize = 190;
const BARS: usize = 420;
const FIGURES: usize = 90;
const TOP: usize = 40;

/// Bars from the left, one below the other, each with its name and its figure. A length is its part of the greatest.
pub fn bars(title: &str, bars: &[(&str, f64, String)]) -> String {
    let greatest = bars.iter().map(|bar| bar.1).fold(f64::MIN_POSITIVE, f64::max);
    let (width, height) = (LABELS + BARS + FIGURES, TOP + bars.len() * ROW + 10);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"22\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for (index, (name, value, figure)) in bars.iter().enumerate() {
        let top = TOP + index * ROW;
        let length = (value / greatest * BARS as f64).max(1.0);
        let colour = if name.starts_with("xlb") { "#2563eb" } else { "#9ca3af" };
        let (text_top, name, figure) = (top + 16, escaped(name), escaped(figure));
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{text_top}\">{name}</text>\
             <rect x=\"{LABELS}\" y=\"{top}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{text_top}\">{figure}</text>",
            ROW - 6,
            LABELS as f64 + length + 6.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_parts_of_the_greatest() {
        let svg = bars("a < b", &[("xlb", 20.0, "20".into()), ("other", 5.0, "5".into())]);
        assert!(svg.contains("a &lt; b") && svg.contains("width=\"420.0\"") && svg.contains("width=\"105.0\""), "{svg}");
    }
}
