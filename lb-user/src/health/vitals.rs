//! What all probes of one backend say together. No clock, no I/O: time comes with each result.

use std::time::Duration;

use super::probe::Outcome;
use super::state::{Machine, State};
use super::{Advice, Check, Checks, Condition, Mode, Parts};

/// One backend's results so far, and what follows from them.
#[derive(Clone, Debug)]
pub struct Vitals {
    mode: Mode,
    /// What the checks, together, say.
    answer: State,
    /// One for each check.
    rows: Vec<Row>,
    condition: Condition,
}

/// The results of one check.
#[derive(Clone, Debug)]
pub struct Row {
    machine: Machine,
    /// What the last one that passed said of the weight.
    advice: Advice,
    /// What the last probe found.
    pub last_result: String,
}

impl Row {
    fn new(check: &Check) -> Self {
        Self { machine: Machine::new(check.rise, check.fall), advice: Advice::default(), last_result: String::new() }
    }

    /// Successes since the last failure.
    pub fn passed_in_row(&self) -> u32 {
        self.machine.passed_in_row()
    }

    /// Failures since the last success.
    pub fn failed_in_row(&self) -> u32 {
        self.machine.failed_in_row()
    }

    fn observe(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed(_) => drop(self.machine.observe(true)),
            Outcome::Advised(advice, _) => {
                self.machine.observe(true);
                self.advice = *advice;
            }
            Outcome::Failed(_) => drop(self.machine.observe(false)),
            Outcome::Unasked(_) | Outcome::Late(_) => {}
        }
        outcome.text().clone_into(&mut self.last_result);
    }
}

impl Vitals {
    pub fn new(checks: &Checks) -> Self {
        let rows = checks.list.iter().map(Row::new).collect();
        Self { mode: checks.mode, answer: State::Unknown, rows, condition: Condition::default() }
    }

    pub fn condition(&self) -> Condition {
        self.condition
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Takes the next result of the check with this index. Yields the condition that was left if that changed it.
    pub fn observe(&mut self, index: usize, outcome: &Outcome, _latency: Duration) -> Option<Condition> {
        self.rows.get_mut(index)?.observe(outcome);
        // While some of them say nothing yet, what was known before goes on.
        let states = self.rows.iter().map(|row| row.machine.state());
        self.answer = self.mode.combine(states).unwrap_or(self.answer);
        let now = self.judge();
        let before = std::mem::replace(&mut self.condition, now);
        (before != self.condition).then_some(before)
    }

    fn judge(&self) -> Condition {
        if self.answer != State::Up {
            return self.answer.into();
        }
        // Whoever does not pass has nothing to say.
        let heard = self.rows.iter().filter(|row| row.machine.state() == State::Up);
        match Advice::strongest(heard.map(|row| row.advice)) {
            Advice::Maint => State::Maint.into(),
            Advice::Drain => State::Drain.into(),
            Advice::Percent(agent) => Condition { state: State::Up, parts: Parts { agent } },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of one check with rise 2 and fall 2, such as `+` passed, `-` failed, `50%`, `drain`; the states after each.
    fn course(results: &str) -> String {
        let checks = Checks { mode: Mode::All, list: vec![Check::default()] };
        let mut vitals = Vitals::new(&checks);
        let mut shown = Vec::new();
        for word in results.split(' ') {
            let text = String::new();
            let outcome = match word {
                "+" => Outcome::Passed(text),
                "-" => Outcome::Failed(text),
                "?" => Outcome::Unasked(text),
                "drain" => Outcome::Advised(Advice::Drain, text),
                "maint" => Outcome::Advised(Advice::Maint, text),
                percent => Outcome::Advised(Advice::percent(percent.trim_end_matches('%').parse().unwrap()), text),
            };
            let (before, left) = (vitals.condition(), vitals.observe(0, &outcome, Duration::ZERO));
            assert_eq!(left, (before != vitals.condition()).then_some(before), "{results}");
            let Condition { state, parts } = vitals.condition();
            shown.push(if parts.agent == 100 { state.to_string() } else { format!("{state} {}%", parts.agent) });
        }
        shown.join(", ")
    }

    #[test]
    fn an_agents_word_holds_while_its_check_does() {
        for (results, expected) in [
            ("100% 50% 0% 75%", "up, up 50%, drain, up 75%"),
            ("drain maint 100%", "drain, maint, up"),
            // A failure that does not decide leaves what was said, and so does one that says nothing.
            ("50% - ? 50%", "up 50%, up 50%, up 50%, up 50%"),
            ("drain - - 50% 50%", "drain, drain, down, down, up 50%"),
            // One that is down has to come up before it is drained.
            ("- - drain drain", "unknown, down, down, drain"),
        ] {
            assert_eq!(course(results), expected, "{results}");
        }
    }

    #[test]
    fn an_agent_that_is_down_has_no_say() {
        let checks = Checks { mode: Mode::Any, list: vec![Check { fall: 1, ..Check::default() }; 2] };
        let mut vitals = Vitals::new(&checks);
        vitals.observe(0, &Outcome::Passed(String::new()), Duration::ZERO);
        vitals.observe(1, &Outcome::Advised(Advice::Drain, String::new()), Duration::ZERO);
        assert_eq!(vitals.condition().state, State::Drain);
        vitals.observe(1, &Outcome::Failed(String::new()), Duration::ZERO);
        assert_eq!(vitals.condition(), State::Up.into());
    }
}
