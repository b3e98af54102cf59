//! What PromQL expressions ask for, compared with what docs/metrics.md lists.

use anyhow::{Context, Result, bail, ensure};

use super::documented;

/// Labels that Prometheus adds to every series.
const TARGET: [&str; 2] = ["instance", "job"];

/// A metric in an expression, with its matchers: label and value.
#[derive(PartialEq, Eq, Debug)]
struct Selector {
    metric: String,
    matchers: Vec<(String, String)>,
}

/// That every metric, label and value that `text` names is one that is exported. Yields how many metrics that were.
///
/// # Errors
/// The first that is not.
pub fn check(text: &str) -> Result<usize> {
    let documented = documented::metrics()?;
    let selectors = selectors(text)?;
    let mut known: Vec<&str> = TARGET.to_vec();
    for Selector { metric, matchers } in &selectors {
        let labels = &documented.get(metric).with_context(|| format!("{metric} is not exported"))?.labels;
        known.extend(labels.keys().map(String::as_str));
        for (label, pattern) in matchers.iter().filter(|(label, _)| !TARGET.contains(&label.as_str())) {
            let values = labels.get(label).with_context(|| format!("{metric} has no label {label}"))?;
            let is_any = values.is_empty() || pattern.starts_with('$');
            let unknown = pattern.split('|').find(|value| !is_any && !values.iter().any(|known| known == value));
            ensure!(unknown.is_none(), "{metric}: {label} is never {unknown:?}");
        }
    }
    for label in grouped_by(text) {
        ensure!(known.contains(&label), "no metric here has a label {label}");
    }
    Ok(selectors.len())
}

fn selectors(text: &str) -> Result<Vec<Selector>> {
    let mut selectors = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("xlb_") {
        let is_whole = !rest[..at].ends_with(is_word);
        rest = &rest[at..];
        let end = rest.find(|character| !is_word(character)).unwrap_or(rest.len());
        let metric = &rest[..end];
        rest = &rest[end..];
        if !is_whole {
            continue;
        }
        let matchers = match rest.strip_prefix('{') {
            Some(after) => {
                let (inside, after) = after.split_once('}').context("a selector has no end")?;
                rest = after;
                matchers(inside)?
            }
            None => Vec::new(),
        };
        selectors.push(Selector { metric: metric.to_owned(), matchers });
    }
    Ok(selectors)
}

fn matchers(inside: &str) -> Result<Vec<(String, String)>> {
    let one = |matcher: &str| match matcher.trim().split_once(['=', '!']) {
        Some((label, value)) => Ok((label.to_owned(), value.trim_start_matches(['=', '~']).trim_matches('"').to_owned())),
        None => bail!("{matcher} is no matcher"),
    };
    inside.split(',').filter(|matcher| !matcher.trim().is_empty()).map(one).collect()
}

/// Labels in `by (...)`, `on (...)`, and the like, in `$labels.` and in legends.
fn grouped_by(text: &str) -> Vec<&str> {
    let lists = [" by (", " on (", " without (", " ignoring ("].into_iter().flat_map(|word| text.split(word).skip(1));
    let listed = lists.filter_map(|rest| rest.split_once(')')).flat_map(|(list, _)| list.split(", "));
    let in_words = text.split("$labels.").skip(1).map(|rest| rest.split(|character| !is_word(character)).next().unwrap_or(""));
    let in_legends = text.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")).map(|(legend, _)| legend);
    let in_legends = in_legends.filter(|legend| legend.chars().all(is_word));
    listed.chain(in_words).chain(in_legends).filter(|label| !label.is_empty()).collect()
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

#[test]
fn what_is_exported_passes_and_a_slip_in_any_place_does_not() -> Result<()> {
    let right = r#"sum by (verdict, job) (rate(xlb_packets_total{class=~"dropped|passed",verdict!="internal"}[5m])) {{verdict}}"#;
    ensure!(check(right)? == 1);
    let wrong = [
        "xlb_packets",
        "rate(xlb_packet_total[5m])",
        r#"xlb_packets_total{clas="dropped"}"#,
        r#"xlb_packets_total{class=~"dropped|lost"}"#,
        r#"xlb_packets_total{verdict="no_backends"}"#,
        "sum by (service) (xlb_packets_total)",
        "xlb_ready {{service}}",
        "xlb_ready $labels.service",
        "xlb_ready + on (backend) xlb_backend_up{service=\"web\"} unless on (server) xlb_build",
    ];
    for text in wrong {
        ensure!(check(text).is_err(), "{text}");
    }
    Ok(())
}
