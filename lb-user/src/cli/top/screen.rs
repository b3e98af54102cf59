//! The picture: four lines of totals, the table, and a line of keys. It fits 80 by 24.

use lb_common::verdict::{Class, Verdict};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use serde_json::Value;

use super::view::{Rates, View};
use crate::cli::status::{endpoint, list, readiness, set_at_runtime, text};

const WIDTHS: [Constraint; 7] = [
    Constraint::Max(32),
    Constraint::Length(8),
    Constraint::Length(6),
    Constraint::Length(6),
    Constraint::Length(6),
    Constraint::Length(6),
    Constraint::Min(15),
];

/// What there is besides the rows: totals, the header, and the keys.
pub const N_OTHER_LINES: u16 = 7;

pub fn draw(frame: &mut Frame<'_>, view: &mut View) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(5), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(totals(view)), head);
    let rows = rows(view);
    view.n_rows = rows.len();
    let header = ["service, backend", "state", "share", "pkt/s", "bit/s", "conn/s", "last check"];
    let header = Row::new(header.iter().enumerate().map(|(column, name)| aligned(column, (*name).to_owned())));
    let table = Table::new(rows, WIDTHS).header(header.dim()).row_highlight_style(Modifier::REVERSED);
    frame.render_stateful_widget(table, body, &mut view.cursor);
    let set = if view.has_set() { " * set at runtime" } else { "" };
    let keys = format!("q quit   up, down, page keys: move   s: sort, now {}{set}", view.order.name());
    frame.render_widget(Line::from(keys).dim(), foot);
}

fn totals(view: &View) -> Vec<Line<'static>> {
    let status = &view.status;
    let interfaces = list(&status["interfaces"]);
    let interfaces = interfaces.iter().map(|interface| format!("{} ({})", text(&interface["name"]), text(&interface["mode"])));
    let interfaces = interfaces.collect::<Vec<_>>().join(", ");
    let ready = readiness(status);
    let mut first = Line::from(format!("xlb {}, {ready}, on {interfaces}", text(&status["version"]))).bold();
    if let Some(trouble) = &view.trouble {
        first = Line::from(trouble.clone()).style(Style::new().fg(Color::Red).bold());
    }
    let backends: Vec<&Value> = list(&status["services"]).iter().flat_map(|service| list(&service["backends"])).collect();
    let n_serving = backends.iter().filter(|backend| backend["serving"] == true).count();
    let total = view.services().iter().fold(Rates::default(), |sum, (_, rates, _)| Rates {
        packets: sum.packets + rates.packets,
        bits: sum.bits + rates.bits,
        connections: sum.connections + rates.connections,
    });
    let flows = &status["flows"];
    let states = ["opening", "guessed", "established", "closing"];
    let on_record: u64 = states.iter().filter_map(|state| flows[state].as_u64()).sum();
    let restless: u64 = list(&status["services"]).iter().filter_map(|service| service["slots_not_at_rest"].as_u64()).sum();
    vec![
        first,
        Line::from(format!(
            "in {} pkt/s, to backends {} bit/s, {} conn/s, dropped {} pkt/s",
            short(view.rate("/packets/received")),
            short(total.bits),
            short(total.connections),
            short(view.rate("/packets/dropped"))
        )),
        Line::from(format!(
            "{n_serving} of {} backends serve, {} flows on record, {restless} slots not at rest",
            backends.len(),
            short(on_record as f64)
        )),
        drops(view),
        Line::default(),
    ]
}

/// Packets dropped by reason, since the start and now.
fn drops(view: &View) -> Line<'static> {
    let dropped = Verdict::ALL.iter().filter(|verdict| verdict.class() == Class::Dropped).map(|verdict| verdict.label());
    let counts = dropped.filter_map(|label| {
        let count = view.status["verdicts"][label].as_u64().filter(|&count| count > 0)?;
        Some(format!("{label} {count} ({}/s)", short(view.rate(&format!("/verdicts/{label}")))))
    });
    match counts.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => Line::from("nothing dropped").dim(),
        some => Line::from(format!("drops: {some}")).fg(Color::Red),
    }
}

fn rows(view: &View) -> Vec<Row<'static>> {
    let mut rows = Vec::new();
    for (service, rates, backends) in view.services() {
        let where_ =
            format!("{} {}/{}", text(&service["name"]), endpoint(&service["vip"], &service["port"]), text(&service["protocol"]));
        let in_maintenance = !service["maintenance"].is_null();
        let where_ = format!("{where_}{}", mark(in_maintenance));
        let how = format!("{} {}", text(&service["forward"]), text(&service["algorithm"]));
        let state = if in_maintenance { "maint" } else { text(&service["state"]) };
        let cells = [where_, state.to_owned(), String::new()].into_iter().chain(numbers(rates)).chain([how]);
        rows.push(row(cells, state == "up").bold());
        for (backend, rates) in backends {
            let name =
                format!("  {}{}", endpoint(&backend["address"], &backend["port"]), mark(!set_at_runtime(backend).is_empty()));
            let is_serving = backend["serving"] == true;
            let admin = &backend["set"]["admin"]["value"];
            let state = match text(&backend["state"]) {
                "up" if admin == "disable" => "disabled",
                "up" if !admin.is_null() => "draining",
                "up" if !is_serving && backend["weight"] == 0 => "weight 0",
                "up" if !is_serving && backend["standby"] == true => "standby",
                "up" if !is_serving => "no way",
                state => state,
            };
            let share = format!("{:.1}%", backend["share"].as_f64().unwrap_or_default() * 100.0);
            let check = backend["unreachable"].as_str().unwrap_or_else(|| text(&backend["check"])).to_owned();
            rows.push(row([name, state.to_owned(), share].into_iter().chain(numbers(rates)).chain([check]), is_serving));
        }
    }
    rows
}

/// What somebody has set stands out from what the file says; `xlb status` says who and when.
fn mark(is_set: bool) -> &'static str {
    if is_set { " *" } else { "" }
}

fn numbers(rates: Rates) -> [String; 3] {
    [rates.packets, rates.bits, rates.connections].map(short)
}

fn row(cells: impl IntoIterator<Item = String>, is_well: bool) -> Row<'static> {
    let row = Row::new(cells.into_iter().enumerate().map(|(column, text)| aligned(column, text)));
    if is_well { row } else { row.fg(Color::Red) }
}

/// Numbers stand at the right. What a backend said is shown without what would control the terminal.
fn aligned(column: usize, text: String) -> Cell<'static> {
    let text = text.replace(|character: char| character.is_control(), " ");
    match column {
        2..=5 => Text::from(text).right_aligned().into(),
        _ => Text::from(text).into(),
    }
}

/// A number in at most five characters.
fn short(value: f64) -> String {
    const PREFIXES: [&str; 5] = ["", "k", "M", "G", "T"];
    let (mut value, mut prefix) = (value, 0);
    while value >= 999.5 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    let digits = match value {
        _ if prefix == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", PREFIXES[prefix])
}
