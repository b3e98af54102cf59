//! What is shown: the last status, rates since the one before, and where the user is in it.

use std::collections::HashMap;
use std::time::Instant;

use ratatui::widgets::TableState;
use serde_json::Value;

use crate::cli::status::{endpoint, list, set_at_runtime, text};

/// What rows are sorted by, each column from high to low.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    #[default]
    Configured,
    Packets,
    Bits,
    Connections,
}

impl Order {
    pub fn name(self) -> &'static str {
        match self {
            Self::Configured => "as configured",
            Self::Packets => "packets",
            Self::Bits => "bits",
            Self::Connections => "connections",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Configured => Self::Packets,
            Self::Packets => Self::Bits,
            Self::Bits => Self::Connections,
            Self::Connections => Self::Configured,
        }
    }
}

/// A second's worth, each.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    pub packets: f64,
    pub bits: f64,
    pub connections: f64,
}

impl Rates {
    fn by(&self, order: Order) -> f64 {
        match order {
            Order::Configured => 0.0,
            Order::Packets => self.packets,
            Order::Bits => self.bits,
            Order::Connections => self.connections,
        }
    }
}

/// Backends as the status has them, with the rates of each.
type Backends<'v> = Vec<(&'v Value, Rates)>;

/// What is shown, and how.
#[derive(Debug, Default)]
pub struct View {
    pub status: Value,
    before: Value,
    /// Seconds between the two. 0: there is no rate yet.
    seconds: f64,
    taken: Option<Instant>,
    /// Why there is nothing newer.
    pub trouble: Option<String>,
    pub order: Order,
    pub cursor: TableState,
    pub n_rows: usize,
}

impl View {
    pub fn take(&mut self, status: Value, now: Instant) {
        self.seconds = self.taken.map_or(0.0, |taken| now.duration_since(taken).as_secs_f64());
        self.before = std::mem::replace(&mut self.status, status);
        self.taken = Some(now);
        self.trouble = None;
    }

    pub fn lose(&mut self, error: &anyhow::Error) {
        self.trouble = Some(crate::error::chain(error.as_ref()));
    }

    pub fn sort_by_next(&mut self) {
        self.order = self.order.next();
    }

    pub fn move_by(&mut self, n_rows: isize) {
        let last = self.n_rows.saturating_sub(1);
        // The first move shows where one is.
        let row = self.cursor.selected().map_or(n_rows.max(1) as usize - 1, |row| row.saturating_add_signed(n_rows));
        self.cursor.select(Some(row.min(last)));
    }

    /// Whether anything that is shown was set at runtime.
    pub fn has_set(&self) -> bool {
        let is_set = |service: &Value| {
            let backends = list(&service["backends"]);
            !service["maintenance"].is_null() || backends.iter().any(|backend| !set_at_runtime(backend).is_empty())
        };
        list(&self.status["services"]).iter().any(is_set)
    }

    /// What a count at a place of the status grew by, a second. A daemon that was started anew counts from 0.
    pub fn rate(&self, pointer: &str) -> f64 {
        let count = |status: &Value| status.pointer(pointer).and_then(Value::as_u64);
        self.growth(count(&self.before), count(&self.status))
    }

    fn growth(&self, before: Option<u64>, now: Option<u64>) -> f64 {
        match (before, now) {
            (Some(before), Some(now)) if self.seconds > 0.0 => now.saturating_sub(before) as f64 / self.seconds,
            _ => 0.0,
        }
    }

    fn rates(&self, before: Option<&Value>, now: &Value) -> Rates {
        let growth = |key: &str| self.growth(before.and_then(|before| before[key].as_u64()), now[key].as_u64());
        Rates { packets: growth("packets"), bits: growth("bytes") * 8.0, connections: growth("connections") }
    }

    /// All services with their backends, in the user's order, with the rates of each.
    pub fn services(&self) -> Vec<(&Value, Rates, Backends<'_>)> {
        let earlier: HashMap<&str, &Value> =
            list(&self.before["services"]).iter().map(|service| (text(&service["name"]), service)).collect();
        let mut services: Vec<_> = list(&self.status["services"])
            .iter()
            .map(|service| {
                let before = earlier.get(text(&service["name"])).copied();
                (service, self.rates(before, service), self.backends(before, service))
            })
            .collect();
        services.sort_by(|(_, a, _), (_, b, _)| b.by(self.order).total_cmp(&a.by(self.order)));
        services
    }

    fn backends<'v>(&self, before: Option<&Value>, service: &'v Value) -> Backends<'v> {
        let name = |backend: &Value| endpoint(&backend["address"], &backend["port"]);
        let earlier: HashMap<String, &Value> =
            before.map_or(&[][..], |before| list(&before["backends"])).iter().map(|backend| (name(backend), backend)).collect();
        let with_rates = |backend: &'v Value| (backend, self.rates(earlier.get(&name(backend)).copied(), backend));
        let mut backends: Vec<_> = list(&service["backends"]).iter().map(with_rates).collect();
        backends.sort_by(|(_, a), (_, b)| b.by(self.order).total_cmp(&a.by(self.order)));
        backends
    }
}
