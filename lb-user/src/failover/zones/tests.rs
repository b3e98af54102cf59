use proptest::prelude::*;

use super::*;

fn zone(name: &str) -> Option<Zone> {
    Some(name).filter(|name| *name != "-").map(Zone::from)
}

/// Zones such as `a 2/4`: how much of its capacity is healthy; `-` is no zone.
fn capacities(words: &str) -> Zones<Capacity> {
    let one = |word: &str| {
        let (name, part) = word.trim().split_once(' ').unwrap();
        let (healthy, whole) = part.split_once('/').unwrap();
        let whole = whole.parse().unwrap();
        (zone(name), Capacity { whole, known: whole, healthy: healthy.parse().unwrap() })
    };
    words.split(',').map(one).collect()
}

fn rules(spread: Spread) -> Rules {
    Rules { spread, overprovision: 140 }
}

fn weights_of(zones: &[(&str, u16)]) -> Rules {
    rules(Spread::Weights(zones.iter().map(|(zone, weight)| (Zone::from(*zone), *weight)).collect()))
}

/// Percent of each zone, and what spills over.
fn check(rules: &Rules, words: &str) -> String {
    let division = Division::new(rules, Some(&"a".into()), capacities(words));
    let percents: Vec<String> = division.zones.values().map(|share| share.percent.to_string()).collect();
    format!("{} spill {}", percents.join(" "), division.spilled())
}

#[test]
fn the_own_zone_takes_all_that_it_can_bear_and_the_rest_goes_by_healthy_capacity() {
    let local = rules(Spread::Local);
    for (zones, expected) in [
        ("a 4/4, b 4/4", "100 0 spill 0"),
        // Three quarters, times 1.4, is more than all.
        ("a 3/4, b 4/4", "100 0 spill 0"),
        ("a 2/4, b 4/4", "70 30 spill 30"),
        ("a 1/4, b 4/4", "35 65 spill 65"),
        ("a 0/4, b 4/4", "0 100 spill 100"),
        // Among the others, whatever share of them is ill.
        ("a 2/4, b 2/4, c 4/4", "70 10 20 spill 30"),
        ("a 2/4, b 0/4, c 1/4", "70 0 30 spill 30"),
        ("- 4/4, a 2/4, b 4/4", "15 70 15 spill 30"),
        // There is nowhere to go.
        ("a 1/4, b 0/4", "100 0 spill 0"),
        ("a 0/4, b 0/4", "0 0 spill 0"),
        // The own zone has nobody here, on the best of days.
        ("b 3/3, c 1/1", "75 25 spill 0"),
    ] {
        assert_eq!(check(&local, zones), expected, "{zones}");
    }
    let exact = Rules { overprovision: 100, ..local };
    assert_eq!(check(&exact, "a 3/4, b 4/4"), "75 25 spill 25");
}

#[test]
fn zones_with_weights_take_their_shares_and_an_ill_one_less() {
    let thirds = weights_of(&[("a", 50), ("b", 30), ("c", 20)]);
    for (zones, expected) in [
        ("a 4/4, b 4/4, c 4/4", "50 30 20 spill 0"),
        ("a 3/4, b 3/4, c 3/4", "50 30 20 spill 0"),
        // 35 to 30 to 20.
        ("a 2/4, b 4/4, c 4/4", "41 35 24 spill 9"),
        ("a 0/4, b 4/4, c 4/4", "0 60 40 spill 50"),
        ("a 0/4, b 0/4, c 1/4", "0 0 100 spill 80"),
        ("a 0/4, b 0/4, c 0/4", "0 0 0 spill 0"),
    ] {
        assert_eq!(check(&thirds, zones), expected, "{zones}");
    }
    let last = weights_of(&[("a", 1), ("b", 0)]);
    for (zones, expected) in [
        ("a 1/1, b 1/1", "100 0 spill 0"),
        // It does not help out, but takes over.
        ("a 1/100, b 1/1", "100 0 spill 0"),
        ("a 0/1, b 1/1", "0 100 spill 100"),
        ("- 3/3, a 0/1, b 1/1", "75 0 25 spill 100"),
    ] {
        assert_eq!(check(&last, zones), expected, "{zones}");
    }
}

#[test]
fn what_is_not_known_counts_neither_way() {
    let known = |healthy, known, whole| Capacity { whole, known, healthy };
    let zones = [(zone("a"), known(1, 1, 4)), (zone("b"), known(4, 4, 4))].into();
    let division = Division::new(&rules(Spread::Local), Some(&"a".into()), zones);
    assert_eq!((division.in_words(), division.spilled()), ("zone a 100%".to_owned(), 0));
    let zones = [(zone("a"), known(0, 0, 4)), (zone("b"), known(2, 4, 4)), (None, known(1, 1, 1))].into();
    let division = Division::new(&rules(Spread::Local), Some(&"a".into()), zones);
    assert_eq!(division.in_words(), "no zone 33%, zone b 67%");
    assert_eq!(division.cause(), "no zone: 100% healthy, zone a (local): not known yet, zone b: 50% healthy");
}

#[test]
fn without_room_zones_take_part_by_what_they_can_bear() {
    let mut division = Division::new(&rules(Spread::Local), Some(&"a".into()), capacities("a 2/4, b 6/6, c 0/2"));
    division.coarsen();
    assert_eq!(division.in_words(), "zone a 25%, zone b 75%");
    let mut whole = Division::new(&rules(Spread::Local), Some(&"a".into()), capacities("a 4/4, b 6/6"));
    whole.coarsen();
    assert_eq!(whole.in_words(), "zone a 100%");
}

#[test]
fn weights_are_the_least_that_will_do() {
    for (parts, expected) in [
        (&[7, 7, 7][..], &[1, 1, 1][..]),
        (&[0, 14, 21], &[0, 2, 3]),
        // 70% over two, 30% over four.
        (&[3500, 3500, 750, 750, 750, 750], &[14, 14, 3, 3, 3, 3]),
        (&[1, 1 << 40], &[1, 65535]),
        (&[0, 0], &[0, 0]),
        (&[], &[]),
    ] {
        assert_eq!(weights(parts), expected, "{parts:?}");
    }
}

#[test]
fn what_is_left_over_goes_to_the_greatest_remainders() {
    for (total, parts, expected) in [
        (100, &[1, 1, 1][..], &[34, 33, 33][..]),
        (100, &[41, 47, 12], &[41, 47, 12]),
        (30, &[1, 1, 2], &[8, 7, 15]),
        (100, &[1, 1_000_000], &[0, 100]),
        (0, &[1, 2], &[0, 0]),
        (100, &[0, 0], &[0, 0]),
    ] {
        assert_eq!(apportion(total, parts), expected, "{total} by {parts:?}");
    }
}

fn any_capacity() -> impl Strategy<Value = Capacity> {
    (1u64..2_000, 0u64..=100, 0u64..=150).prop_map(|(whole, known, healthy)| {
        let known = whole * known / 100;
        Capacity { whole, known, healthy: known * healthy / 100 }
    })
}

fn any_capacities() -> impl Strategy<Value = Zones<Capacity>> {
    prop::collection::btree_map(
        prop_oneof![Just("-"), Just("a"), Just("b"), Just("c"), Just("d")].prop_map(zone),
        any_capacity(),
        1..5,
    )
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let weights = prop::collection::btree_map(prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(Zone::from), 0u16..100, 1..4);
    let spread = prop_oneof![Just(Spread::Local), weights.prop_map(Spread::Weights)];
    (spread, 100u16..300).prop_map(|(spread, overprovision)| Rules { spread, overprovision })
}

/// The shares said a second way, in fractions.
fn in_fractions(rules: &Rules, capacities: &Zones<Capacity>) -> Zones<f64> {
    let factor = f64::from(rules.overprovision) / 100.0;
    let bears = |capacity: &Capacity| {
        if capacity.known == 0 { 0.0 } else { (factor * capacity.healthy as f64 / capacity.known as f64).min(1.0) }
    };
    let scaled = |parts: Vec<f64>, total: f64| -> Vec<f64> {
        let sum: f64 = parts.iter().sum();
        parts.into_iter().map(|part| if sum == 0.0 { 0.0 } else { part / sum * total }).collect()
    };
    let healthy = |wanted: &dyn Fn(&Option<Zone>) -> bool| -> Vec<f64> {
        capacities.iter().map(|(zone, capacity)| if wanted(zone) { capacity.healthy as f64 } else { 0.0 }).collect()
    };
    let shares = match &rules.spread {
        Spread::Weights(weights) => {
            let weight =
                |zone: &Option<Zone>| zone.as_ref().and_then(|zone| weights.get(zone)).map_or(0.0, |&weight| f64::from(weight));
            let parts: Vec<f64> = capacities.iter().map(|(zone, capacity)| weight(zone) * bears(capacity)).collect();
            if parts.iter().sum::<f64>() == 0.0 { scaled(healthy(&|_| true), 1.0) } else { scaled(parts, 1.0) }
        }
        Spread::Local => {
            let own = zone("a");
            let others = healthy(&|zone| *zone != own);
            let stays = match capacities.get(&own) {
                Some(capacity) if capacity.healthy > 0 && others.iter().sum::<f64>() == 0.0 => 1.0,
                Some(capacity) => bears(capacity),
                None => 0.0,
            };
            let others = scaled(others, 1.0 - stays);
            capacities.keys().zip(others).map(|(zone, share)| if *zone == own { stays } else { share }).collect()
        }
    };
    capacities.keys().cloned().zip(shares).collect()
}

proptest! {
    #[test]
    fn shares_are_those_of_the_definition_to_within_a_percent_and_add_up(rules in any_rules(), capacities in any_capacities()) {
        let division = Division::new(&rules, Some(&"a".into()), capacities.clone());
        let sum: u32 = division.zones.values().map(|share| u32::from(share.percent)).sum();
        let is_any = capacities.values().any(|capacity| capacity.healthy > 0);
        prop_assert_eq!(sum, if is_any { 100 } else { 0 });
        for (zone, wanted) in in_fractions(&rules, &capacities) {
            let share = division.zones[&zone];
            prop_assert!((f64::from(share.percent) - wanted * 100.0).abs() < 1.5, "{zone:?}: {wanted} in {division:?}");
            prop_assert!(share.percent == 0 || share.capacity.healthy > 0, "{division:?}");
        }
        prop_assert!(division.spilled() <= 100);
    }

    #[test]
    fn the_own_zone_takes_the_more_the_healthier_it_is(rules in any_rules(), mut capacities in any_capacities(), whole in 1u64..200) {
        let rules = Rules { spread: Spread::Local, ..rules };
        let mut before = 0;
        for healthy in 0..=whole {
            capacities.insert(zone("a"), Capacity { whole, known: whole, healthy });
            let share = Division::new(&rules, Some(&"a".into()), capacities.clone()).zones[&zone("a")].percent;
            prop_assert!(share >= before, "{before}, then {share} at {healthy} of {whole}");
            prop_assert!(healthy * u64::from(rules.overprovision) < whole * 100 || share == 100);
            before = share;
        }
    }

    #[test]
    fn while_all_are_well_nothing_spills_over(rules in any_rules(), capacities in any_capacities()) {
        let well = capacities.into_iter().map(|(zone, capacity)| (zone, capacity.if_well())).collect();
        prop_assert_eq!(Division::new(&rules, Some(&"a".into()), well).spilled(), 0);
    }

    #[test]
    fn weights_stand_to_each_other_as_parts_do(parts in prop::collection::vec(0u128..600, 1..20), scale in 1u128..1 << 80) {
        let parts: Vec<u128> = parts.into_iter().map(|part| part * scale).collect();
        let weights = weights(&parts);
        let (sum_of_parts, sum): (u128, u64) = (parts.iter().sum(), weights.iter().map(|&weight| u64::from(weight)).sum());
        for (part, weight) in parts.iter().zip(&weights) {
            prop_assert_eq!(*part == 0, *weight == 0);
            let (wanted, is) = (*part as f64 / sum_of_parts as f64, f64::from(*weight) / sum as f64);
            prop_assert!(*part == 0 || (is / wanted - 1.0).abs() < 0.0101, "{parts:?}: {weights:?}");
        }
    }

    /// Some may be a great many times others: more than weights can tell.
    #[test]
    fn whoever_has_a_larger_part_has_no_smaller_weight(parts in prop::collection::vec(prop_oneof![Just(0u128), 1u128..1 << 40], 1..20)) {
        let mut both: Vec<(u128, u16)> = parts.iter().copied().zip(weights(&parts)).collect();
        both.sort_unstable();
        prop_assert!(both.is_sorted_by_key(|(_, weight)| weight), "{both:?}");
        prop_assert!(both.iter().all(|&(part, weight)| (part == 0) == (weight == 0)), "{both:?}");
    }

    #[test]
    fn nothing_overflows(healthy in any::<u32>(), known in any::<u32>(), rules in any_rules()) {
        let capacity = Capacity { whole: u64::from(u32::MAX) << 4, known: u64::from(known) << 4, healthy: u64::from(healthy) << 4 };
        let capacities: Zones<Capacity> = ["a", "b", "c"].into_iter().map(|name| (zone(name), capacity)).collect();
        let division = Division::new(&rules, Some(&"b".into()), capacities);
        prop_assert!(division.is_any() == (healthy > 0));
    }
}
