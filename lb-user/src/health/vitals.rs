//! What all probes of one backend say together. No clock, no I/O: time comes with each result.

use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Breaker, Phase};
use super::flapping::Flapping;
use super::probe::Outcome;
use super::quota::Seat;
use super::state::{Machine, State};
use super::suspicion::Suspicion;
use super::window::Counts;
use super::{Advice, Check, Checks, Condition, Degraded, Mode, Parts};

/// One backend's results so far, and what follows from them.
#[derive(Debug)]
pub struct Vitals {
    mode: Mode,
    /// What the checks, together, say.
    answer: State,
    /// One for each check.
    rows: Vec<Row>,
    /// Somebody asks it something. Otherwise what its flows say is all that is known.
    is_active: bool,
    suspicion: Option<Suspicion>,
    breaker: Option<Breaker>,
    flapping: Flapping,
    /// Without one, there is nobody to share with.
    seat: Option<Seat>,
    condition: Condition,
    cause: String,
}

/// How much of its weight a backend has while flows are all that decides whether it is trusted again.
const TRIAL_PERCENT: u16 = 10;

/// The results of one check.
#[derive(Clone, Debug)]
pub struct Row {
    machine: Machine,
    /// What the last one that passed said of the weight.
    advice: Advice,
    /// Whether those that passed came in time, as a machine of its own: down is too slow.
    pace: Machine,
    degraded: Option<Degraded>,
    /// What the last probe found.
    pub last_result: String,
}

impl Row {
    fn new(check: &Check) -> Self {
        let machine = Machine::new(check.rise, check.fall);
        Self { pace: machine.clone(), machine, advice: Advice::default(), degraded: check.degraded, last_result: String::new() }
    }

    pub fn state(&self) -> State {
        self.machine.state()
    }

    /// Successes since the last failure.
    pub fn passed_in_row(&self) -> u32 {
        self.machine.passed_in_row()
    }

    /// Failures since the last success.
    pub fn failed_in_row(&self) -> u32 {
        self.machine.failed_in_row()
    }

    /// How much of its weight the backend has, as this check has it, if that is too slow.
    fn slow(&self) -> Option<u16> {
        self.degraded.filter(|_| self.pace.state() == State::Down).map(|degraded| degraded.percent)
    }

    fn observe(&mut self, outcome: &Outcome, latency: Duration) {
        match outcome {
            Outcome::Passed(_) | Outcome::Advised(..) => {
                self.machine.observe(true);
                if let Some(degraded) = self.degraded {
                    self.pace.observe(latency <= degraded.above);
                }
            }
            Outcome::Failed(_) => drop(self.machine.observe(false)),
            Outcome::Unasked(_) | Outcome::Late(_) => {}
        }
        if let Outcome::Advised(advice, _) = outcome {
            self.advice = *advice;
        }
        outcome.text().clone_into(&mut self.last_result);
    }
}

impl Vitals {
    pub fn new(checks: &Checks, seat: Option<Seat>) -> Self {
        Self {
            mode: checks.mode,
            answer: State::Unknown,
            rows: checks.list.iter().map(Row::new).collect(),
            is_active: checks.is_active(),
            suspicion: checks.passive.map(Suspicion::new),
            breaker: checks.breaker.map(Breaker::new),
            flapping: Flapping::new(checks.flapping),
            seat,
            condition: Condition::default(),
            cause: String::new(),
        }
    }

    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// What has brought it about.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn breaker(&self) -> Option<&Breaker> {
        self.breaker.as_ref()
    }

    pub fn suspicion(&self) -> Option<&Suspicion> {
        self.suspicion.as_ref()
    }

    pub fn flapping(&self) -> &Flapping {
        &self.flapping
    }

    /// Takes the next result of the check with this index. Yields the condition that was left if that changed it.
    pub fn observe(&mut self, index: usize, outcome: &Outcome, latency: Duration, now: Instant) -> Option<Condition> {
        let was_up = self.answer == State::Up;
        self.rows.get_mut(index)?.observe(outcome, latency);
        // While some of them say nothing yet, what was known before goes on.
        let states = self.rows.iter().map(Row::state);
        let answer = self.mode.combine(states).unwrap_or(self.answer);
        let before = std::mem::replace(&mut self.answer, answer);
        if before != answer && before != State::Unknown {
            self.flapping.note_change(answer == State::Up, now);
        }
        self.flapping.tick(now);
        let counts = match outcome {
            Outcome::Passed(_) | Outcome::Advised(..) => Counts::one(true),
            Outcome::Failed(_) => Counts::one(false),
            Outcome::Unasked(_) | Outcome::Late(_) => Counts::default(),
        };
        if !self.is_active {
            return self.follow(outcome.text(), latency);
        }
        // Of one that is down it is known; what took it down is not held against it once it is up again.
        let counted = if was_up && answer == State::Up { counts } else { Counts::default() };
        self.note_counts(counted, was_up, now);
        self.follow(outcome.text(), latency)
    }

    /// Takes in what flows have shown since the last time. Yields whether the backend is to be looked at now, and the condition that
    /// was left if that changed it, which it only does if nobody asks it anything.
    pub fn observe_flows(&mut self, counts: Counts, now: Instant) -> (Option<Counts>, Option<Condition>) {
        let raised = match &mut self.suspicion {
            // Of one that is down it is known.
            Some(suspicion) if self.answer == State::Down => {
                suspicion.forget();
                None
            }
            Some(suspicion) => suspicion.observe(counts, now),
            None => None,
        };
        if self.is_active {
            return (raised, None);
        }
        self.note_counts(counts, self.answer == State::Up, now);
        (None, self.follow(&format!("{} of {} handshakes failed", counts.failed, counts.total()), Duration::ZERO))
    }

    fn note_counts(&mut self, counts: Counts, was_up: bool, now: Instant) {
        let (is_up, seat) = (self.answer == State::Up, self.seat.as_ref());
        let may_be_out = || seat.is_none_or(Seat::ask);
        if let Some(breaker) = &mut self.breaker {
            if is_up && !was_up {
                breaker.forget();
            }
            breaker.observe(counts, now, || is_up && may_be_out());
        }
        let is_open = self.breaker.as_ref().is_some_and(|breaker| breaker.phase() != Phase::Closed);
        let is_held = is_up && self.flapping.is_held();
        match &mut self.breaker {
            Some(breaker) if is_open && !may_be_out() => breaker.close(now),
            _ if is_open || is_held => {}
            _ => seat.into_iter().for_each(Seat::give_back),
        }
    }

    /// Judges anew, and yields what was left if that is another condition.
    fn follow(&mut self, found: &str, latency: Duration) -> Option<Condition> {
        let now = self.judge();
        if let Some(seat) = &self.seat {
            seat.note_serving(now.state.serves());
        }
        let before = std::mem::replace(&mut self.condition, now);
        if before == now {
            return None;
        }
        self.cause = match now.state {
            State::Ejected => {
                let n = self.breaker.as_ref().map_or(0, Breaker::n_ejections);
                format!("too many failures, ejection {n} in a row; {found}")
            }
            State::Held => format!("flapping, held until it has been up for {:?}; {found}", self.flapping.trial()),
            State::Degraded if !self.is_active => format!("on trial after an ejection; {found}"),
            State::Degraded if before.state != now.state => format!("slow, {} ms; {found}", latency.as_millis()),
            _ => found.to_owned(),
        };
        Some(before)
    }

    fn judge(&self) -> Condition {
        if self.answer != State::Up {
            return self.answer.into();
        }
        // Whoever does not pass has nothing to say.
        let heard = || self.rows.iter().filter(|row| row.state() == State::Up);
        let agent = match Advice::strongest(heard().map(|row| row.advice)) {
            Advice::Maint => return State::Maint.into(),
            Advice::Drain => return State::Drain.into(),
            Advice::Percent(percent) => percent,
        };
        match self.breaker.as_ref().map(Breaker::phase) {
            None | Some(Phase::Closed) => {}
            // Without flows nothing would ever be known of it.
            Some(Phase::HalfOpen) if !self.is_active => {
                return Condition { state: State::Degraded, parts: Parts { agent, degraded: TRIAL_PERCENT } };
            }
            Some(Phase::Open | Phase::HalfOpen) => return State::Ejected.into(),
        }
        if self.flapping.is_held() && self.seat.as_ref().is_none_or(Seat::ask) {
            return State::Held.into();
        }
        match heard().filter_map(Row::slow).min() {
            None => Condition { state: State::Up, parts: Parts { agent, ..Parts::default() } },
            Some(degraded) => Condition { state: State::Degraded, parts: Parts { agent, degraded } },
        }
    }
}

#[cfg(test)]
mod tests;
