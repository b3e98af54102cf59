use std::collections::BTreeSet;

use proptest::prelude::*;

use super::choice::{Health, Member, choose};
use super::*;

/// Backends such as `0+ 0- 1?`: a priority, or `s` for sorry, and `+` healthy, `-` not, `?` not known, `.` taken out by hand, `x` without
/// a way.
fn members(words: &str) -> Vec<Member> {
    let one = |word: &str| {
        let (tier, health) = word.split_at(word.len() - 1);
        let tier = tier.parse().map_or(Tier::Sorry, Tier::Priority);
        let (health, is_wanted, is_reachable) = match health {
            "+" => (Health::Serves, true, true),
            "-" => (Health::Out, true, true),
            "?" => (Health::Undecided, true, true),
            "." => (Health::Serves, false, true),
            _ => (Health::Out, true, false),
        };
        Member { tier, health, is_wanted, is_reachable }
    };
    words.split_whitespace().map(one).collect()
}

/// Goes through rounds, separated by `|`, and shows who takes new flows in each; `!` is panic, and `held N` what is held.
fn course(rules: &Rules, rounds: &str) -> String {
    let (mut before, mut held) = (Choice::default(), None);
    let mut shown = Vec::new();
    for round in rounds.split('|') {
        // Somebody asks for failback.
        if let Some(held) = Some(&mut held).filter(|_| round.contains("failback")) {
            *held = None;
        }
        let members = members(&round.replace("failback", ""));
        let choice = choose(rules, &members, &before, held);
        held = choice.held(rules, &members, held);
        let tiers: Vec<String> = choice.tiers.iter().map(|tier| tier.to_string().replace("priority ", "")).collect();
        let panics = if choice.panics { "!" } else { "" };
        let holds = held.map(|held| format!(" held {held}")).unwrap_or_default();
        shown.push(format!("{}{panics}{holds}", tiers.join("+")));
        before = choice;
    }
    shown.join(" | ")
}

#[test]
fn the_first_priority_with_a_healthy_backend_takes_new_flows() {
    let cases = [
        ("0+ 1+", "0"),
        ("0- 0+ 1+", "0"),
        ("0+ 1+ | 0- 1+ | 0+ 1+", "0 | 1 | 0"),
        ("0+ 1+ 7+ | 0- 1- 7+ | 0- 1+ 7+", "0 | 7 | 1"),
        // Taken out by hand, or out of reach, is out as well.
        ("0. 1+", "1"),
        ("0+ 1+ | 0x 1+", "0 | 1"),
        // Nobody is left: as it was.
        ("0+ 1+ | 0- 1+ | 0- 1-", "0 | 1 | 1"),
        ("0- 1-", "0"),
        // The number says which is first, not where it begins.
        ("3+ 5+ | 3- 5+", "3 | 5"),
    ];
    for (rounds, expected) in cases {
        assert_eq!(course(&Rules::default(), rounds), expected, "{rounds}");
    }
}

#[test]
fn at_a_start_a_priority_that_is_not_known_yet_is_waited_for_and_later_it_is_not() {
    let cases = [
        ("0? 1+ | 0+ 1+", "0 | 0"),
        ("0? 1+ | 0- 1+", "0 | 1"),
        // One that discovery finds does not take flows from those who serve.
        ("0- 1+ | 0- 0? 1+ | 0- 0+ 1+", "1 | 1 | 0"),
        ("0? s+ | 0- s+ | 0? s+ | 0+ s+", "0 | sorry | sorry | 0"),
    ];
    for (rounds, expected) in cases {
        assert_eq!(course(&Rules::default(), rounds), expected, "{rounds}");
    }
    let manual = Rules { failback: Failback::Manual, ..Rules::default() };
    assert_eq!(course(&manual, "0? 1+ | 0+ 1+"), "0 | 0", "who is slower to answer is not held against");
}

#[test]
fn manual_failback_waits_for_an_operator_or_for_the_end_of_who_took_over() {
    let manual = Rules { failback: Failback::Manual, ..Rules::default() };
    let cases = [
        ("0+ 1+ | 0- 1+ | 0+ 1+ | failback 0+ 1+", "0 | 1 held 1 | 1 held 1 | 0"),
        ("0+ 1+ | 0- 1+ | 0+ 1+ | 0+ 1-", "0 | 1 held 1 | 1 held 1 | 0"),
        ("0+ 1+ 2+ | 0- 1+ 2+ | 0- 1- 2+ | 0- 1+ 2+", "0 | 1 held 1 | 2 held 2 | 2 held 2"),
        // All die: who comes back first has them, the one that held them before others.
        ("0+ 1+ | 0- 1+ | 0- 1- | 0+ 1-", "0 | 1 held 1 | 1 held 1 | 0"),
        ("0+ 1+ | 0- 1+ | 0- 1- | 0+ 1+", "0 | 1 held 1 | 1 held 1 | 1 held 1"),
        // There is nobody to go back to.
        ("0+ 1+ | 0- 1+ | failback 0- 1+", "0 | 1 held 1 | 1 held 1"),
        ("0+ 1+ s+ | 0- 1+ s+ | 0- 1- s+ | 0+ 1+ s+", "0 | 1 held 1 | sorry held 1 | 1 held 1"),
    ];
    for (rounds, expected) in cases {
        assert_eq!(course(&manual, rounds), expected, "{rounds}");
    }
}

#[test]
fn below_its_minimum_a_priority_is_helped_by_the_next() {
    let count = Rules { minimum: Some(Minimum::Count(2)), ..Rules::default() };
    let half = Rules { minimum: Some(Minimum::Percent(50)), ..Rules::default() };
    let cases = [
        (&count, "0+ 0+ 0- 1+ 1+", "0"),
        (&count, "0+ 0- 0- 1+ 1+", "0+1"),
        (&count, "0+ 0- 1+ 1- 2+ 2+", "0+1+2"),
        (&count, "0+ 0- 1- 1- 2+ 2+", "0+2"),
        (&count, "0- 0- 1+ 1- 2+", "1+2"),
        (&count, "0+ 0- s+", "0"),
        (&count, "0+ 0? 1+ | 0+ 0- 1+ | 0+ 0? 1+ | 0+ 0+ 1+", "0 | 0+1 | 0+1 | 0"),
        (&half, "0+ 0- 1+", "0"),
        (&half, "0+ 0- 0- 1+", "0+1"),
        // Who is taken out by hand is missing too.
        (&half, "0+ 0. 0. 1+", "0+1"),
    ];
    for (rules, rounds, expected) in cases {
        assert_eq!(course(rules, rounds), expected, "{rounds}");
    }
    let manual = Rules { failback: Failback::Manual, ..count };
    assert_eq!(course(&manual, "0+ 0+ 1+ 1+ | 0- 0- 1+ 1+ | 0+ 0+ 1+ 1-"), "0 | 1 held 1 | 0+1 held 1");
}

#[test]
fn in_panic_all_priorities_are_taken_for_healthy() {
    let rules = Rules { panic_percent: 30, ..Rules::default() };
    let cases = [
        ("0+ 0- 0- | 0- 0- 0- | 0+ 0- 0-", "0 | 0! | 0"),
        ("0- 0- 0- 1+ | 0- 0- 0- 1+ 1+", "0+1! | 1"),
        // What is not known is no reason to panic.
        ("0? 0? 0?", "0"),
        ("0? 0- 0-", "0"),
        // Nor is what somebody took out by hand.
        ("0. 0. 0. 0+", "0"),
        ("0- 0- 0- s+ | 0x 0x s+", "0! | sorry"),
    ];
    for (rounds, expected) in cases {
        assert_eq!(course(&rules, rounds), expected, "{rounds}");
    }
    assert_eq!(course(&Rules::default(), "0- 0-"), "0", "without a threshold there is no panic");
}

#[test]
fn the_sorry_backend_serves_only_while_nobody_else_can() {
    assert_eq!(course(&Rules::default(), "0+ 1+ s+ | 0- 1- s+ | 0- 1+ s+ | 0. 1. s+"), "0 | sorry | 1 | sorry");
    assert_eq!(course(&Rules::default(), "0+ s- | 0- s-"), "0 | 0");
}

fn any_members() -> impl Strategy<Value = Vec<Member>> {
    let health = prop_oneof![Just(Health::Serves), Just(Health::Out), Just(Health::Undecided)];
    let tier = prop_oneof![4 => (0u8..4).prop_map(Tier::Priority), 1 => Just(Tier::Sorry)];
    let member = (tier, health, prop::bool::weighted(0.8)).prop_map(|(tier, health, is_wanted)| Member {
        tier,
        health,
        is_wanted,
        is_reachable: true,
    });
    prop::collection::vec(member, 0..10)
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let minimum = prop_oneof![
        Just(None),
        (1u16..4).prop_map(|n| Some(Minimum::Count(n))),
        (1u8..=100).prop_map(|n| Some(Minimum::Percent(n)))
    ];
    (any::<bool>(), minimum, prop_oneof![Just(0u8), 0u8..=100]).prop_map(|(manual, minimum, panic_percent)| Rules {
        failback: if manual { Failback::Manual } else { Failback::Auto },
        minimum,
        panic_percent,
        slow_start: None,
    })
}

proptest! {
    #[test]
    fn whoever_can_serve_is_found_whatever_was_before(rules in any_rules(), rounds in prop::collection::vec(any_members(), 1..6)) {
        let (mut before, mut held) = (Choice::default(), None);
        for members in rounds {
            let choice = choose(&rules, &members, &before, held);
            let is_serving = |member: &&Member| member.health == Health::Serves && member.is_wanted;
            let is_known = members.iter().all(|member| member.health != Health::Undecided);
            let can: BTreeSet<Tier> = members.iter().filter(is_serving).map(|member| member.tier).collect();
            if is_known && !can.is_empty() {
                prop_assert!(choice.panics || !choice.tiers.is_disjoint(&can), "{choice:?}");
                let others = can.iter().any(|tier| *tier != Tier::Sorry);
                prop_assert!(!(others && choice.tiers.contains(&Tier::Sorry)), "sorry beside others: {choice:?}");
            }
            if is_known && !choice.panics && rules.failback == Failback::Auto && !can.is_empty() {
                prop_assert_eq!(choice.first, can.first().copied());
            }
            held = choice.held(&rules, &members, held);
            prop_assert!(held.is_none() || rules.failback == Failback::Manual);
            // What was decided stays decided while nothing changes.
            let again = choose(&rules, &members, &choice, held);
            prop_assert_eq!(&again.tiers, &choice.tiers);
            prop_assert_eq!(again.held(&rules, &members, held), held);
            before = choice;
        }
    }
}

mod settled {
    use std::net::IpAddr;

    use lb_common::MacAddr;

    use super::*;
    use crate::compile::{Layout, Quiet};
    use crate::config::parse;
    use crate::daemon::assemble;
    use crate::desired::NextHop;
    use crate::health::{Condition, Parts, State};
    use crate::nexthop::Way;
    use crate::tables::Tables;

    const SECOND: Duration = Duration::from_secs(1);

    /// A service in its rounds.
    struct Rounds {
        config: Config,
        findings: Findings,
        standings: Standings,
        now: Instant,
        shown: Desired,
    }

    impl Rounds {
        /// With these keys, and backends 10.0.0.1 and on with these.
        fn new(keys: &str, backends: &[&str]) -> Self {
            let mut text = format!(
                "[xdp]\ninterfaces = [\"eth0\"]\n[node]\nzone = \"a\"\n[[service]]\nname = \"web\"\nvip = \"10.200.1.1\"\nport = 80\n{keys}\n"
            );
            for (n, more) in (1..).zip(backends) {
                text.push_str(&format!("[[service.backend]]\naddress = \"10.0.0.{n}\"\n{more}\n"));
            }
            let config = parse("test.toml", &text).unwrap_or_else(|error| panic!("{error}"));
            let mut findings = Findings::default();
            let hop = NextHop {
                ifindex: 2,
                source: MacAddr::new([2; 6]),
                destination: MacAddr::new([4; 6]),
                takes_redirects: true,
                ..NextHop::NOWHERE
            };
            for n in 1..=9u8 {
                findings.last_ways.insert(IpAddr::from([10, 0, 0, n]), Way { hop, gateway: None });
            }
            Self { config, findings, standings: Standings::default(), now: Instant::now(), shown: Desired::default() }
        }

        fn check(&mut self, n: u8, state: State) {
            self.findings.health.insert(("web".into(), SocketAddr::from(([10, 0, 0, n], 80))), state.into());
        }

        /// Its agent wants this part of its weight.
        fn says(&mut self, n: u8, state: State, agent: u16) {
            let condition = Condition { state, parts: Parts { agent, ..Parts::default() } };
            self.findings.health.insert(("web".into(), SocketAddr::from(([10, 0, 0, n], 80))), condition);
        }

        fn all(mut self, state: State) -> Self {
            (1..=9).for_each(|n| self.check(n, state));
            self
        }

        /// The weights in force, in the order of addresses.
        fn weights(&mut self) -> Vec<u16> {
            let mut desired = assemble(&self.config, &self.findings);
            for turn in self.standings.settle(&self.config, &mut desired, &self.findings, self.now) {
                self.findings.overrides.hold(&turn.service, turn.held, 1);
            }
            self.shown = desired;
            self.shown.services["web"].backends.values().map(|backend| backend.weight).collect()
        }

        /// Decides about the service alone, after what was decided before.
        fn settle_one(&mut self) {
            let rules = self.config.services[0].clone();
            let settled = self.standings.settle_one(&self.config, &rules, &self.shown, &self.findings, self.now);
            let (service, turn) = settled.unwrap();
            if let Some(turn) = turn {
                self.findings.overrides.hold(&turn.service, turn.held, 1);
            }
            self.shown.services.insert(rules.name, service);
        }

        fn settle_due(&mut self) {
            let n_due = self.standings.due(self.now).count();
            assert_eq!(n_due, 1);
            self.settle_one();
        }

        /// Lets time pass from step to step; the weights after each.
        fn steps(&mut self) -> Vec<Vec<u16>> {
            let mut steps = Vec::new();
            while let Some(next) = self.standings.next_step() {
                assert!(next > self.now, "time goes on");
                self.now = next;
                steps.push(self.weights());
            }
            steps
        }
    }

    #[test]
    fn a_standby_has_no_weight_and_shows_its_own() {
        let mut rounds = Rounds::new("", &["weight = 3", "priority = 1\nweight = 5"]).all(State::Up);
        assert_eq!(rounds.weights(), [3, 0]);
        let standing = rounds.standings.of(&"web".into()).unwrap();
        let standby = &standing.backends[&SocketAddr::from(([10, 0, 0, 2], 80))];
        assert_eq!((standby.weight, standby.is_standby, standby.tier), (5, true, Tier::Priority(1)));
        rounds.check(1, State::Down);
        assert_eq!(rounds.weights(), [0, 5]);
    }

    #[test]
    fn a_service_without_any_of_this_has_no_standing() {
        let mut rounds = Rounds::new("", &["", "weight = 2"]).all(State::Up);
        assert_eq!(rounds.weights(), [1, 2]);
        assert!(rounds.standings.of(&"web".into()).is_none() && rounds.standings.next_step().is_none());
    }

    #[test]
    fn what_an_earlier_daemon_served_goes_on_while_nothing_is_known() {
        let mut rounds = Rounds::new("[service.sorry]\naddress = \"10.0.0.9\"", &["", "priority = 1"]);
        rounds.findings.adopted_alive.insert(("web".into(), SocketAddr::from(([10, 0, 0, 2], 80))));
        assert_eq!(rounds.weights(), [0, 1, 0]);
        // Without one, the first is waited for.
        rounds.findings.adopted_alive.clear();
        rounds.standings = Standings::default();
        rounds.check(2, State::Up);
        assert_eq!(rounds.weights(), [1, 0, 0]);
    }

    #[test]
    fn in_panic_the_dead_serve_but_for_those_taken_out_by_hand() {
        let mut rounds = Rounds::new("panic = \"50%\"", &["", "", "weight = 0"]).all(State::Down);
        assert_eq!(rounds.weights(), [1, 1, 0]);
        let alive: Vec<bool> = rounds.shown.services["web"].backends.values().map(|backend| backend.alive).collect();
        assert_eq!(alive, [true, true, false]);
    }

    #[test]
    fn maintenance_leaves_the_sorry_backend_and_holds_what_was_held() {
        let mut rounds =
            Rounds::new("failback = \"manual\"\n[service.sorry]\naddress = \"10.0.0.9\"", &["", "priority = 1"]).all(State::Up);
        rounds.check(1, State::Down);
        assert_eq!(rounds.weights(), [0, 1, 0]);
        assert_eq!(rounds.findings.overrides.held(&"web".into()), Some(1));
        rounds.check(1, State::Up);
        assert_eq!(rounds.weights(), [0, 1, 0]);
        rounds.findings.overrides.hold(&"web".into(), None, 2);
        assert_eq!(rounds.weights(), [1, 0, 0]);
    }

    #[test]
    fn a_backend_that_comes_up_gets_its_weight_in_ten_steps_and_shares_are_exact_after() {
        let mut rounds = Rounds::new("slow_start = \"9s\"", &["weight = 2", "weight = 3"]).all(State::Up);
        assert_eq!(rounds.weights(), [2, 3], "not at the daemon's start");
        rounds.check(2, State::Down);
        assert_eq!(rounds.weights(), [2, 3]);
        rounds.check(2, State::Up);
        assert_eq!(rounds.weights(), [20, 3]);
        let began = rounds.now;
        let shares: [[u16; 2]; 9] = [[10, 3], [20, 9], [5, 3], [4, 3], [10, 9], [20, 21], [5, 6], [20, 27], [2, 3]];
        let expected: Vec<Vec<u16>> = shares.into_iter().map(Vec::from).collect();
        assert_eq!(rounds.steps(), expected);
        let took = rounds.now - began;
        assert!(took >= 9 * SECOND && took < 10 * SECOND, "{took:?}");
    }

    #[test]
    fn only_who_was_down_or_came_to_others_starts_slowly() {
        let slow = "slow_start = \"10s\"";
        // Coming up one by one at a start, as checks answer.
        let mut rounds = Rounds::new(slow, &["", ""]);
        rounds.weights();
        rounds.check(1, State::Up);
        assert_eq!(rounds.weights(), [1, 1]);
        rounds.check(2, State::Up);
        assert_eq!(rounds.weights(), [1, 1]);
        // A third is added.
        let three = Rounds::new(slow, &["", "", ""]);
        rounds.config = three.config;
        rounds.weights();
        rounds.check(3, State::Up);
        assert_eq!(rounds.weights(), [10, 10, 1]);
        // It dies and comes back half way: from the start again.
        rounds.now += 5 * SECOND;
        assert_eq!(rounds.weights(), [2, 2, 1]);
        rounds.check(3, State::Down);
        assert_eq!(rounds.weights(), [1, 1, 1]);
        rounds.check(3, State::Up);
        assert_eq!(rounds.weights(), [10, 10, 1]);
        assert!(rounds.standings.end_parts());
        assert_eq!(rounds.weights(), [1, 1, 1]);
        assert!(!rounds.standings.end_parts());
        rounds.standings.allow_parts();
        // All die; the first to come back is alone, and the second is not.
        (1..=3).for_each(|n| rounds.check(n, State::Down));
        rounds.weights();
        rounds.check(1, State::Up);
        assert_eq!(rounds.weights(), [1, 1, 1]);
        rounds.check(2, State::Up);
        assert_eq!(rounds.weights(), [10, 1, 10]);
    }

    #[test]
    fn what_health_says_of_weights_needs_no_rule() {
        let mut rounds = Rounds::new("", &["weight = 2", "weight = 4", ""]).all(State::Up);
        assert_eq!(rounds.weights(), [2, 4, 1]);
        rounds.says(1, State::Up, 50);
        assert_eq!(rounds.weights(), [1, 4, 1]);
        assert!(rounds.standings.ruled(&"web".into()).is_none());
        rounds.says(2, State::Up, 50);
        rounds.says(3, State::Up, 50);
        assert_eq!(rounds.weights(), [2, 4, 1], "the same part of all changes nothing");
        rounds.says(2, State::Up, 150);
        assert_eq!(rounds.weights(), [2, 12, 1]);
        // A part that is no twentieth is rounded, or the table would have to be large.
        (1..=3).for_each(|n| rounds.check(n, State::Up));
        rounds.says(1, State::Up, 1);
        assert_eq!(rounds.weights(), [1, 40, 10]);
        rounds.check(1, State::Up);
        assert_eq!(rounds.weights(), [2, 4, 1]);
        assert!(rounds.standings.of(&"web".into()).is_none());
    }

    #[test]
    fn who_drains_by_its_agent_keeps_its_flows_and_who_is_worked_on_does_not() {
        let mut rounds = Rounds::new("panic = \"50%\"", &["weight = 7", "", "", "priority = 1"]).all(State::Up);
        rounds.check(1, State::Drain);
        rounds.check(2, State::Maint);
        assert_eq!(rounds.weights(), [0, 1, 1, 0]);
        let alive: Vec<bool> = rounds.shown.services["web"].backends.values().map(|backend| backend.alive).collect();
        assert_eq!(alive, [true, false, true, true]);
        let place = |rounds: &Rounds, n| {
            rounds.standings.of(&"web".into()).unwrap().backends[&SocketAddr::from(([10, 0, 0, n], 80))].clone()
        };
        assert_eq!(place(&rounds, 1).weight, 7, "its own is still shown");
        // Neither is a failure: nobody panics, and the next priority takes over when all are out.
        rounds.check(3, State::Drain);
        assert_eq!(rounds.weights(), [0, 0, 0, 1]);
        assert!(!rounds.standings.of(&"web".into()).unwrap().choice.panics);
    }

    #[test]
    fn a_part_is_taken_of_what_a_slow_start_leaves() {
        let mut rounds = Rounds::new("slow_start = \"10s\"", &["", ""]).all(State::Up);
        rounds.weights();
        rounds.check(2, State::Down);
        rounds.weights();
        rounds.says(2, State::Up, 50);
        assert_eq!(rounds.weights(), [20, 1]);
        assert_eq!(rounds.steps().last().unwrap(), &[2, 1]);
    }

    proptest! {
        /// The shares said a second way: as fractions of integers, without a common divisor.
        #[test]
        fn weights_stand_to_each_other_as_their_parts_say(all in prop::collection::vec((1u16..50, 1u16..=300), 1..6)) {
            let keys: Vec<String> = all.iter().map(|(weight, _)| format!("weight = {weight}")).collect();
            let mut rounds = Rounds::new("", &keys.iter().map(String::as_str).collect::<Vec<_>>()).all(State::Up);
            for (n, &(_, percent)) in (1..).zip(&all) {
                rounds.says(n, State::Up, percent);
            }
            let in_force = rounds.weights();
            let wanted: Vec<u64> = all.iter().map(|&(weight, percent)| {
                u64::from(weight) * (f64::from(percent) / 5.0).round().max(1.0) as u64
            }).collect();
            for (a, wanted_a) in in_force.iter().zip(&wanted) {
                for (b, wanted_b) in in_force.iter().zip(&wanted) {
                    prop_assert_eq!(u64::from(*a) * wanted_b, u64::from(*b) * wanted_a, "{:?} for {:?}", in_force, wanted);
                }
            }
        }
    }

    #[test]
    fn great_weights_are_scaled_as_far_as_they_fit() {
        let mut rounds = Rounds::new("slow_start = \"10s\"", &["weight = 30000", "weight = 1", "weight = 65535"]).all(State::Up);
        rounds.weights();
        rounds.check(2, State::Down);
        rounds.weights();
        rounds.check(2, State::Up);
        assert_eq!(rounds.weights(), [30000, 1, 65535]);
    }

    const LOCAL: &str = "[service.zones]\n";

    /// Two backends in the machine's own zone, `a`, and two in zone `b`.
    fn two_zones(keys: &str) -> Rounds {
        let backends = ["zone = \"a\"", "zone = \"a\"", "zone = \"b\"", "zone = \"b\""];
        Rounds::new(keys, &backends).all(State::Up)
    }

    /// What each zone takes.
    fn zones(rounds: &Rounds) -> String {
        rounds.standings.of(&"web".into()).unwrap().division.as_ref().unwrap().in_words()
    }

    #[test]
    fn the_own_zone_serves_alone_until_it_cannot_bear_all_and_again_when_it_can() {
        let mut rounds = two_zones(LOCAL);
        assert_eq!(rounds.weights(), [1, 1, 0, 0]);
        let standby = |rounds: &Rounds| -> Vec<bool> {
            rounds.standings.of(&"web".into()).unwrap().backends.values().map(|place| place.is_standby).collect()
        };
        assert_eq!(standby(&rounds), [false, false, true, true]);
        // One of two, times 1.4, is 70%, all of it for the one that is left: the dead one's weight is nobody's.
        rounds.check(2, State::Down);
        assert_eq!(rounds.weights(), [14, 14, 3, 3]);
        assert_eq!((zones(&rounds), standby(&rounds)), ("zone a 70%, zone b 30%".into(), vec![false; 4]));
        rounds.check(1, State::Down);
        assert_eq!(rounds.weights(), [0, 0, 1, 1]);
        assert_eq!(standby(&rounds), [false; 4], "who is dead does not stand by");
        rounds.check(1, State::Up);
        rounds.check(2, State::Up);
        assert_eq!(rounds.weights(), [1, 1, 0, 0]);
        // Nobody: as the file says.
        (1..=4).for_each(|n| rounds.check(n, State::Down));
        assert_eq!(rounds.weights(), [1, 1, 1, 1]);
    }

    #[test]
    fn who_is_drained_disabled_or_distrusted_lessens_what_its_zone_can_bear_and_weight_0_does_not() {
        let drained = |rounds: &mut Rounds, json: &str| {
            let set = format!(r#"{{"web":{{"backends":{{"10.0.0.2:80":{json}}}}}}}"#);
            rounds.findings.overrides = serde_json::from_str(&set).unwrap();
        };
        let mut rounds = two_zones(LOCAL);
        drained(&mut rounds, r#"{"admin":{"value":{"drain":{}},"by":"root","at_ms":1}}"#);
        assert_eq!(rounds.weights(), [14, 0, 3, 3]);
        drained(&mut rounds, r#"{"admin":{"value":"disable","by":"root","at_ms":1}}"#);
        assert_eq!(rounds.weights(), [14, 14, 3, 3]);
        drained(&mut rounds, r#"{"weight":{"value":0,"by":"root","at_ms":1}}"#);
        assert_eq!(rounds.weights(), [1, 0, 0, 0]);
        drained(&mut rounds, r#"{"weight":{"value":3,"by":"root","at_ms":1}}"#);
        assert_eq!(rounds.weights(), [1, 3, 0, 0]);
        rounds.findings.overrides = Default::default();
        for state in [State::Drain, State::Maint, State::Ejected, State::Held] {
            rounds.check(2, state);
            assert_eq!(rounds.weights()[2..], [3, 3], "{state}");
        }
        // A half of one and a whole one are three quarters, which is enough.
        rounds.says(2, State::Degraded, 50);
        assert_eq!(rounds.weights(), [2, 1, 0, 0]);
        // 1.2 of 2, times 1.4, is 84%: 70 and 14 to 8 and 8.
        rounds.says(2, State::Up, 20);
        assert_eq!((zones(&rounds), rounds.weights()), ("zone a 100%".into(), vec![35, 7, 4, 4]));
        assert_eq!(zones(&rounds), "zone a 84%, zone b 16%");
    }

    #[test]
    fn a_zone_takes_more_as_its_backends_start_slowly() {
        let mut rounds = two_zones(&format!("slow_start = \"9s\"\n{LOCAL}"));
        rounds.weights();
        rounds.check(2, State::Down);
        rounds.weights();
        assert_eq!(zones(&rounds), "zone a 70%, zone b 30%");
        rounds.check(2, State::Up);
        rounds.weights();
        assert_eq!(zones(&rounds), "zone a 77%, zone b 23%");
        let last = rounds.steps();
        assert_eq!(last.last().unwrap(), &[1, 1, 0, 0]);
    }

    #[test]
    fn in_panic_no_zone_is_preferred_and_weights_of_zones_hold() {
        let mut rounds = two_zones(&format!("panic = \"75%\"\n{LOCAL}"));
        rounds.check(1, State::Down);
        rounds.check(2, State::Down);
        assert_eq!(rounds.weights(), [1, 1, 1, 1]);
        let mut rounds = two_zones("panic = \"75%\"\n[service.zones]\nweights = { a = 3, b = 1 }\n");
        assert_eq!(rounds.weights(), [3, 3, 1, 1]);
        rounds.check(3, State::Down);
        assert_eq!(rounds.weights(), [17, 17, 8, 8], "three of four are no panic: 75 to 70% of 25, for one");
        rounds.check(4, State::Down);
        assert_eq!(rounds.weights(), [3, 3, 1, 1]);
        assert!(rounds.standings.of(&"web".into()).unwrap().choice.panics);
    }

    #[test]
    fn zones_divide_what_goes_to_the_priorities_that_serve() {
        let backends = ["zone = \"a\"", "zone = \"b\"", "zone = \"b\"\npriority = 1", "zone = \"a\"\npriority = 1"];
        let sorry = "[service.sorry]\naddress = \"10.0.0.9\"\n";
        let mut rounds = Rounds::new(&format!("{LOCAL}{sorry}"), &backends).all(State::Up);
        assert_eq!(rounds.weights(), [1, 0, 0, 0, 0]);
        rounds.check(1, State::Down);
        assert_eq!(rounds.weights(), [0, 1, 0, 0, 0], "a priority comes before a zone");
        rounds.check(2, State::Down);
        assert_eq!(rounds.weights(), [0, 0, 0, 1, 0]);
        rounds.check(4, State::Down);
        assert_eq!(rounds.weights(), [0, 0, 1, 0, 0]);
        rounds.check(3, State::Down);
        assert_eq!(rounds.weights(), [0, 0, 0, 0, 1]);
        assert!(!rounds.standings.of(&"web".into()).unwrap().division.as_ref().unwrap().is_any());
    }

    #[test]
    fn at_a_start_a_zone_is_waited_for_and_later_who_is_not_known_counts_neither_way() {
        let mut rounds = two_zones(LOCAL);
        (1..=4).for_each(|n| rounds.check(n, State::Unknown));
        rounds.check(3, State::Up);
        assert_eq!(rounds.weights(), [1, 1, 0, 0], "not the quickest check decides");
        rounds.check(1, State::Down);
        rounds.check(2, State::Down);
        rounds.check(4, State::Up);
        assert_eq!(rounds.weights(), [0, 0, 1, 1]);
        rounds.check(1, State::Up);
        rounds.check(2, State::Up);
        assert_eq!(rounds.weights(), [1, 1, 0, 0]);
        // Two more are added to the zone: it is no less healthy for that.
        let more = ["zone = \"a\""; 6];
        rounds.config = Rounds::new(LOCAL, &more).config;
        (3..=6).for_each(|n| rounds.check(n, State::Unknown));
        assert_eq!(rounds.weights(), [1; 6]);
        assert_eq!(zones(&rounds), "zone a 100%");
    }

    #[test]
    fn what_an_earlier_daemon_divided_stays_divided_while_nothing_is_known() {
        let mut rounds = two_zones(LOCAL);
        (1..=4).for_each(|n| rounds.check(n, State::Unknown));
        for n in [1, 3, 4] {
            rounds.findings.adopted_alive.insert(("web".into(), SocketAddr::from(([10, 0, 0, n], 80))));
        }
        assert_eq!(rounds.weights(), [14, 14, 3, 3], "the second was down, or it had been served");
        rounds.check(2, State::Up);
        assert_eq!(rounds.weights(), [1, 1, 0, 0]);
    }

    #[test]
    fn without_room_whole_zones_help_out() {
        let mut rounds = two_zones(LOCAL);
        rounds.check(2, State::Down);
        rounds.weights();
        assert!(rounds.standings.end_parts());
        assert_eq!(rounds.weights(), [1, 1, 1, 1]);
        assert_eq!(zones(&rounds), "zone a 33%, zone b 67%");
        assert!(!rounds.standings.end_parts(), "there is nothing more to give up");
        rounds.check(2, State::Up);
        assert_eq!(rounds.weights(), [1, 1, 0, 0]);
    }

    /// What the packet path goes by: those who are out have others stand in for them, and zones have their shares all the same.
    #[test]
    fn zones_have_their_shares_in_slots_whoever_is_out() {
        let zones = ["a", "a", "a", "a", "b", "b", "c", "c", "c"];
        for (out, expected) in [
            (&[][..], [1.0, 0.0, 0.0]),
            (&[1], [1.0, 0.0, 0.0]),
            (&[1, 4], [0.7, 0.12, 0.18]),
            (&[1, 2, 3], [0.35, 0.26, 0.39]),
            (&[1, 2, 3, 5, 7, 8], [0.35, 0.33, 0.32]),
            (&[1, 2, 3, 4, 6], [0.0, 0.25, 0.75]),
        ] {
            let keys = zones.map(|zone| format!("zone = \"{zone}\""));
            let mut rounds = Rounds::new(LOCAL, &keys.each_ref().map(String::as_str)).all(State::Up);
            rounds.findings.ingress.insert(2);
            rounds.weights();
            let at_first = compile::compile(&rounds.shown, &Layout::new(1 << 20), &Tables::default(), &Quiet(0));
            let (tables, layout) = at_first.unwrap();
            out.iter().for_each(|&n| rounds.check(n, State::Down));
            rounds.weights();
            let (tables, layout) = compile::compile(&rounds.shown, &layout, &tables, &Quiet(0)).unwrap();
            let slots = &tables.regions.values().next().unwrap().slots;
            let share = |wanted: &str| {
                let owned = (1u8..).zip(zones).filter(|(_, zone)| *zone == wanted).map(|(n, _)| {
                    let id = layout.find_backend(&"web".into(), SocketAddr::from(([10, 0, 0, n], 80)));
                    slots.iter().filter(|slot| Some(slot.current()) == id).count()
                });
                owned.sum::<usize>() as f64 / slots.len() as f64
            };
            let shares = ["a", "b", "c"].map(share);
            let is_near = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 0.012);
            assert!(is_near, "{out:?} are out: {shares:?}, not {expected:?}");
        }
    }

    #[test]
    fn maintenance_leaves_zones_as_they_are() {
        let mut rounds = two_zones(LOCAL);
        rounds.weights();
        rounds.findings.overrides = serde_json::from_str(r#"{"web":{"maintenance":{"by":"root","at_ms":1}}}"#).unwrap();
        assert_eq!(rounds.weights(), [0; 4]);
    }

    #[test]
    fn a_source_says_of_all_its_backends_where_they_belong() {
        let found = "[service.dns]\nname = \"a.b\"\nzone = \"b\"\npriority = 0\n[service.file]\npath = \"/f.json\"\nzone = \"a\"\npriority = 3\n";
        let mut rounds = Rounds::new(&format!("{LOCAL}{found}"), &["zone = \"a\""]).all(State::Up);
        let discovered = |n: u8| [(SocketAddr::from(([10, 0, 0, n], 80)), 1)].into();
        use crate::discovery::Kind;
        rounds.findings.discovered.insert("web".into(), [(Kind::Dns, discovered(2)), (Kind::File, discovered(3))].into());
        assert_eq!(rounds.weights(), [1, 0, 0]);
        rounds.check(1, State::Down);
        assert_eq!(rounds.weights(), [0, 1, 0]);
        rounds.check(2, State::Down);
        assert_eq!(rounds.weights(), [0, 0, 1]);
        let place = rounds.standings.of(&"web".into()).unwrap().backends[&SocketAddr::from(([10, 0, 0, 3], 80))].clone();
        assert_eq!((place.tier, place.zone.as_deref()), (Tier::Priority(3), Some("a")));
    }

    /// Services of every kind that decides something.
    fn kinds() -> Vec<Rounds> {
        let zoned = ["zone = \"a\"", "zone = \"a\"\nweight = 3", "zone = \"b\"", "priority = 1\nzone = \"b\""];
        let tiers = ["weight = 2", "", "priority = 1", "priority = 1\nweight = 7", "priority = 2"];
        vec![
            Rounds::new("", &["", "weight = 2", "weight = 5"]),
            Rounds::new("panic = \"50%\"\nfailback = \"manual\"", &tiers),
            Rounds::new("slow_start = \"10s\"\n[service.sorry]\naddress = \"10.0.0.9\"", &tiers),
            Rounds::new(&format!("slow_start = \"3s\"\n{LOCAL}"), &zoned),
        ]
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        use State::*;
        let state = prop_oneof![
            4 => Just(Up),
            4 => Just(Down),
            1 => prop::sample::select(&[Unknown, Degraded, Drain, Maint, Ejected, Held][..]),
        ];
        let agent = prop_oneof![4 => Just(100), 1 => prop::sample::select(&[0u16, 5, 50, 200][..])];
        (state, agent).prop_map(|(state, agent)| Condition { state, parts: Parts { agent, ..Parts::default() } })
    }

    proptest! {
        /// One service after the other, as their checks speak and time passes, or all from the beginning.
        #[test]
        fn one_at_a_time_comes_to_what_all_together_do(
            kind in 0usize..4,
            rounds in prop::collection::vec((prop::collection::vec((1u8..6, any_condition()), 0..3), 0u64..12_000), 1..12),
        ) {
            let mut together = kinds().swap_remove(kind);
            together.weights();
            let mut alone = Rounds {
                config: together.config.clone(),
                findings: Findings { last_ways: together.findings.last_ways.clone(), ..Findings::default() },
                standings: together.standings.clone(),
                shown: together.shown.clone(),
                now: together.now,
            };
            for (heard, passed_ms) in rounds {
                // Each step of a slow start is taken when it is due, as the control loop does.
                let until = together.now + Duration::from_millis(passed_ms);
                while let Some(step) = together.standings.next_step().filter(|step| *step <= until) {
                    prop_assert_eq!(alone.standings.next_step(), Some(step));
                    (together.now, alone.now) = (step, step);
                    together.weights();
                    alone.settle_due();
                    prop_assert_eq!(&alone.shown.services, &together.shown.services);
                }
                (together.now, alone.now) = (until, until);
                for (n, condition) in heard {
                    let key = ("web".into(), SocketAddr::from(([10, 0, 0, n], 80)));
                    let is_there = together.shown.services["web"].backends.contains_key(&key.1);
                    if is_there {
                        together.findings.health.insert(key.clone(), condition);
                        alone.findings.health.insert(key, condition);
                    }
                }
                together.weights();
                alone.settle_one();
                prop_assert_eq!(&alone.shown.services, &together.shown.services);
                prop_assert_eq!(alone.findings.overrides.held(&"web".into()), together.findings.overrides.held(&"web".into()));
                let places = |rounds: &Rounds| rounds.standings.of(&"web".into()).map(|standing| standing.backends.clone());
                prop_assert_eq!(places(&alone), places(&together));
            }
        }
    }

    proptest! {
        /// The whole of it said a second way: each zone's share of the weights of those who serve, and who has none.
        #[test]
        fn zones_have_their_shares_by_those_who_serve(
            all in prop::collection::vec((0usize..3, 1u16..50, any::<bool>(), prop_oneof![Just(100u16), 5u16..=100]), 1..9)
        ) {
            let keys: Vec<String> =
                all.iter().map(|&(zone, weight, ..)| format!("weight = {weight}\nzone = \"{}\"", ["a", "b", "c"][zone])).collect();
            let mut rounds = Rounds::new(LOCAL, &keys.iter().map(String::as_str).collect::<Vec<_>>());
            rounds.config.services[0].zones = Some(ZoneRules { spread: Spread::Local, overprovision: 140 });
                for (n, &(_, _, is_up, percent)) in (1..).zip(&all) {
                rounds.says(n, if is_up { State::Up } else { State::Down }, percent);
            }
            let weights: Vec<f64> = rounds.weights().into_iter().map(f64::from).collect();
            let part = |&(_, weight, is_up, percent): &(usize, u16, bool, u16)| {
                if is_up { f64::from(weight) * (f64::from(percent) / 5.0).round().max(1.0) / 20.0 } else { 0.0 }
            };
            let sum_of = |zone: usize| all.iter().filter(|one| one.0 == zone).map(part).sum::<f64>();
            let whole: f64 = all.iter().filter(|one| one.0 == 0).map(|one| f64::from(one.1)).sum();
            let (healthy, elsewhere) = (sum_of(0), sum_of(1) + sum_of(2));
            let stays = match () {
                () if healthy == 0.0 => 0.0,
                () if elsewhere == 0.0 => 1.0,
                () => (healthy / whole * 1.4).min(1.0),
            };
            let served: f64 = all.iter().zip(&weights).filter(|(one, _)| one.2).map(|(_, weight)| weight).sum();
            for zone in 0..3 {
                let has: f64 = all.iter().zip(&weights).filter(|(one, _)| one.0 == zone && one.2).map(|(_, weight)| weight).sum();
                let wanted = if zone == 0 { stays } else if elsewhere == 0.0 { 0.0 } else { (1.0 - stays) * sum_of(zone) / elsewhere };
                prop_assert!(served == 0.0 || (has / served - wanted).abs() < 0.02, "zone {}: {} of {:?}", zone, wanted, weights);
            }
        }
    }
}
