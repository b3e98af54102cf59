//! The metrics that docs/metrics.md lists.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use lb_common::verdict::Verdict;

use super::support::read;

/// One metric, by a row of the tables.
#[derive(Debug)]
pub struct Metric {
    pub kind: String,
    /// Labels with the values that they can have; no values: any.
    pub labels: BTreeMap<String, Vec<String>>,
    /// How many series there are of it.
    pub bound: Bound,
}

/// `fixed + services * S + backends * B + tracked * T + interfaces * I + zones * Z + pool * A`
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Bound {
    pub fixed: usize,
    pub services: usize,
    pub backends: usize,
    pub tracked: usize,
    pub interfaces: usize,
    pub zones: usize,
    pub pool: usize,
}

/// All of them, by name.
pub fn metrics() -> Result<BTreeMap<String, Metric>> {
    let page = read("docs/metrics.md")?;
    let rows = page.lines().filter(|line| line.starts_with("| `xlb_"));
    let metrics: Result<Vec<(String, Metric)>> = rows.map(|row| metric(row).with_context(|| row.to_owned())).collect();
    let metrics = metrics?;
    let n_rows = metrics.len();
    let by_name: BTreeMap<String, Metric> = metrics.into_iter().collect();
    ensure!(by_name.len() == n_rows, "a metric is listed twice");
    Ok(by_name)
}

fn metric(row: &str) -> Result<(String, Metric)> {
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [name, kind, labels, meaning, since, series] = cells[..] else { bail!("not six columns") };
    ensure!(!meaning.is_empty(), "no meaning");
    let counts = matches!(kind, "counter" | "histogram");
    ensure!(counts == matches!(since, "maps" | "daemon"), "counters and histograms, and nothing else, count since something");
    Ok((name.trim_matches('`').to_owned(), Metric { kind: kind.to_owned(), labels: labels_of(labels), bound: bound(series)? }))
}

/// Of a cell such as `` `class` (forwarded, dropped), `verdict` ``.
fn labels_of(cell: &str) -> BTreeMap<String, Vec<String>> {
    let parts: Vec<&str> = cell.split('`').collect();
    let pairs = parts[1..].chunks(2).map(|pair| (pair[0], pair.get(1).copied().unwrap_or_default()));
    pairs
        .map(|(label, after)| {
            let listed = after.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(list, _)| list);
            let mut values: Vec<String> = listed.iter().flat_map(|list| list.split(", ")).map(str::to_owned).collect();
            if label == "verdict" {
                values = Verdict::ALL.iter().map(|verdict| verdict.label().to_owned()).collect();
            }
            (label.to_owned(), values)
        })
        .collect()
}

/// Of a cell such as `2 S`.
fn bound(cell: &str) -> Result<Bound> {
    let (n, unit) = match cell.split_once(' ') {
        Some((n, unit)) => (n.parse()?, unit),
        None => cell.parse().map_or((1, cell), |n| (n, "")),
    };
    Ok(match unit {
        "" => Bound { fixed: n, ..Bound::default() },
        "S" => Bound { services: n, ..Bound::default() },
        "B" => Bound { backends: n, ..Bound::default() },
        "T" => Bound { tracked: n, ..Bound::default() },
        "I" => Bound { interfaces: n, ..Bound::default() },
        "Z" => Bound { zones: n, ..Bound::default() },
        "A" => Bound { pool: n, ..Bound::default() },
        _ => bail!("{cell:?} is no number of series"),
    })
}

#[test]
fn the_sum_of_all_series_is_what_the_page_says() -> Result<()> {
    let (mut sum, mut of_sources) = (Bound::default(), 0);
    for (name, metric) in metrics()? {
        if name.starts_with("xlb_discovery_") {
            of_sources += metric.bound.services;
            continue;
        }
        sum.fixed += metric.bound.fixed;
        sum.services += metric.bound.services;
        sum.backends += metric.bound.backends;
        sum.tracked += metric.bound.tracked;
        sum.interfaces += metric.bound.interfaces;
        sum.zones += metric.bound.zones;
        sum.pool += metric.bound.pool;
    }
    ensure!(sum.interfaces == 1, "{sum:?}");
    let Bound { fixed, services, backends, tracked, zones, pool, .. } = sum;
    let said = format!(
        "{fixed} + I + {services} S + {backends} B + {tracked} T, and {of_sources} for each source of a service, \
         and {zones} for each zone of one with `[service.zones]`, and {pool} for each address of `[fullnat]`"
    );
    // However its lines are broken.
    let page = read("docs/metrics.md")?.replace('\n', " ");
    ensure!(page.contains(&said), "docs/metrics.md does not say {said:?}");
    for backends in [backends, backends + tracked] {
        let said = format!("{},000", services + backends * 20);
        ensure!(page.contains(&said), "docs/metrics.md does not say {said:?}");
    }
    Ok(())
}

#[test]
fn each_verdict_has_a_series() -> Result<()> {
    ensure!(metrics()?["xlb_packets_total"].bound.fixed == Verdict::ALL.len(), "{} verdicts", Verdict::ALL.len());
    Ok(())
}
