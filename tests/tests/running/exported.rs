//! The metrics that a daemon exports, read from OpenMetrics text.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

/// What the series of a histogram end in.
const HISTOGRAM: [&str; 3] = ["_bucket", "_sum", "_count"];

/// One metric, with its series.
#[derive(Default, Debug)]
pub struct Family {
    pub kind: String,
    /// The labels of each series, without the ends of a histogram's ranges.
    pub series: Vec<BTreeMap<String, String>>,
}

/// All of them, by the name that their series have: that of a counter ends in `_total`, and a histogram has several.
pub fn families(text: &str) -> Result<BTreeMap<String, Family>> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').context("a type")?;
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            families.insert(name, Family { kind: kind.to_owned(), series: Vec::new() });
        } else if !line.starts_with('#') {
            let (name, mut labels) = series(line).with_context(|| line.to_owned())?;
            let of_histogram = HISTOGRAM.iter().find_map(|suffix| name.strip_suffix(suffix));
            let of_histogram = of_histogram.filter(|name| families.get(*name).is_some_and(|family| family.kind == "histogram"));
            if of_histogram.is_some() {
                labels.remove("le");
            }
            let name = of_histogram.unwrap_or(name);
            families.get_mut(name).with_context(|| format!("{name} has no type"))?.series.push(labels);
        }
    }
    ensure!(!families.is_empty(), "nothing is exported");
    Ok(families)
}

fn series(line: &str) -> Result<(&str, BTreeMap<String, String>)> {
    let (series, value) = line.rsplit_once(' ').context("a value")?;
    ensure!(value.parse::<f64>().is_ok(), "{value} is no number");
    let Some((name, labels)) = series.split_once('{') else { return Ok((series, BTreeMap::new())) };
    let labels = labels.strip_suffix("\"}").context("the end of the labels")?;
    let pairs = labels.split("\",").map(|pair| match pair.split_once("=\"") {
        Some((label, value)) => Ok((label.to_owned(), value.to_owned())),
        None => bail!("{pair} is no label"),
    });
    Ok((name, pairs.collect::<Result<_>>()?))
}
