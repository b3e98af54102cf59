//! Why something changes: what has been taken in since the tables last were as they should be.

use std::collections::BTreeMap;

use crate::desired::ServiceName;

/// As many are named of one service; a line is not a table.
const N_NAMED: usize = 3;

/// What was heard of single services, and of all.
#[derive(Debug, Default)]
pub struct Causes {
    of_service: BTreeMap<ServiceName, Heard>,
    of_all: Heard,
}

#[derive(Debug, Default)]
struct Heard {
    first: Vec<String>,
    n_more: usize,
}

impl Heard {
    fn add(&mut self, cause: String) {
        if self.first.contains(&cause) {
            return;
        }
        match self.first.len() < N_NAMED {
            true => self.first.push(cause),
            false => self.n_more += 1,
        }
    }

    fn in_words(&self) -> Option<String> {
        let more = if self.n_more > 0 { format!(", and {} more", self.n_more) } else { String::new() };
        (!self.first.is_empty()).then(|| self.first.join(", ") + &more)
    }
}

impl Causes {
    pub fn add(&mut self, service: &ServiceName, cause: String) {
        self.of_service.entry(service.clone()).or_default().add(cause);
    }

    /// One that any service may change for.
    pub fn add_for_all(&mut self, cause: &str) {
        self.of_all.add(cause.to_owned());
    }

    /// Why a service changes now.
    pub fn of(&self, service: &ServiceName) -> String {
        let own = self.of_service.get(service).and_then(Heard::in_words);
        own.or_else(|| self.of_all.in_words()).unwrap_or_else(|| "time has passed".to_owned())
    }

    /// All of it has been brought about.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_of_a_service_goes_before_what_concerns_all_and_is_not_without_end() {
        let (web, shop): (ServiceName, ServiceName) = ("web".into(), "shop".into());
        let mut causes = Causes::default();
        assert_eq!(causes.of(&web), "time has passed");
        causes.add_for_all("reload");
        causes.add_for_all("reload");
        for host in 1..=5 {
            causes.add(&web, format!("10.0.0.{host}:80 is down"));
        }
        assert_eq!(causes.of(&web), "10.0.0.1:80 is down, 10.0.0.2:80 is down, 10.0.0.3:80 is down, and 2 more");
        assert_eq!(causes.of(&shop), "reload");
        causes.clear();
        assert_eq!(causes.of(&shop), "time has passed");
    }
}
