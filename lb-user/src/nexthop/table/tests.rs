use std::time::Duration;

use super::*;
use crate::nexthop::netdev;

const OURS: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
const THEIRS: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);
const OTHERS: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 3]);
const ETH: u32 = 4;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(ifindex: u32) -> LinkFacts {
    LinkFacts {
        ifindex,
        name: format!("eth{ifindex}"),
        ethernet: true,
        mac: OURS,
        mtu: 1500,
        kind: None,
        up: true,
        xdp_features: Some(netdev::NDO_XMIT),
        peer_has_xdp: None,
        xdp_attached: None,
    }
}

fn via(ifindex: u32, neighbour: &str) -> Route {
    Route::Via { ifindex, neighbour: ip(neighbour), source: None, mtu: None }
}

fn hop(ifindex: u32, destination: MacAddr) -> Answer {
    Ok(Way { hop: NextHop { ifindex, source: OURS, destination, takes_redirects: true, ..NextHop::NOWHERE }, gateway: None })
}

fn behind(gateway: &str, direct: Answer) -> Answer {
    direct.map(|way| Way { gateway: Some(ip(gateway)), ..way })
}

/// A table with one link, which wants the addresses by the given routes.
struct Fixture {
    table: Table,
    now: Instant,
}

impl Fixture {
    fn new(wanted: &[(&str, Route)]) -> Self {
        let mut fixture = Self { table: Table::new(RedirectMode::Native), now: Instant::now() };
        fixture.table.set_link(link(ETH), fixture.now);
        fixture.table.want(&wanted.iter().map(|(address, _)| (ip(address), 0)).collect());
        for (address, route) in wanted {
            fixture.route(address, *route);
        }
        fixture
    }

    fn route(&mut self, address: &str, route: Route) {
        self.table.set_route(ip(address), route, self.now);
    }

    fn neighbour(&mut self, address: &str, neighbour: Neighbour) {
        self.table.set_neighbour(Key { ifindex: ETH, address: ip(address) }, neighbour, self.now);
    }

    fn changes(&mut self) -> Vec<(String, Answer)> {
        let changes = self.table.take_changes().next_hops;
        changes.into_iter().map(|(address, answer)| (address.to_string(), answer)).collect()
    }

    /// Passes the time to the next probe and takes it.
    fn probe(&mut self) -> Option<(String, Duration)> {
        let waited = self.table.next_probe()?.saturating_duration_since(self.now);
        self.now += waited;
        self.table.take_probe(self.now).map(|key| (key.address.to_string(), waited))
    }
}

#[test]
fn an_address_is_answered_once_route_link_and_neighbour_are_known() {
    let mut fixture = Fixture::new(&[("10.0.0.9", via(ETH, "10.0.0.9"))]);
    let pending = Unresolved::NeighbourPending { interface: "eth4".to_owned(), gateway: ip("10.0.0.9") };
    assert_eq!(fixture.changes(), [("10.0.0.9".to_owned(), Err(pending))]);
    fixture.neighbour("10.0.0.9", Neighbour::Usable(THEIRS));
    assert_eq!(fixture.changes(), [("10.0.0.9".to_owned(), hop(ETH, THEIRS))]);
    fixture.neighbour("10.0.0.9", Neighbour::Stale(THEIRS));
    assert_eq!(fixture.changes(), []);
}

#[test]
fn a_gateways_new_address_reaches_all_who_go_through_it_and_nobody_else() {
    let gateway = via(ETH, "10.0.0.1");
    let mut fixture = Fixture::new(&[("10.1.0.1", gateway), ("10.1.0.2", gateway), ("10.0.0.9", via(ETH, "10.0.0.9"))]);
    fixture.neighbour("10.0.0.1", Neighbour::Usable(THEIRS));
    fixture.neighbour("10.0.0.9", Neighbour::Usable(THEIRS));
    assert_eq!(fixture.changes().len(), 3);
    fixture.neighbour("10.0.0.1", Neighbour::Usable(OTHERS));
    let expected = ["10.1.0.1", "10.1.0.2"].map(|address| (address.to_owned(), behind("10.0.0.1", hop(ETH, OTHERS))));
    assert_eq!(fixture.changes(), expected);
}

#[test]
fn a_neighbour_that_the_kernel_forgets_or_asks_for_again_stays_resolved_until_it_fails() {
    let mut fixture = Fixture::new(&[("10.0.0.9", via(ETH, "10.0.0.9"))]);
    fixture.neighbour("10.0.0.9", Neighbour::Usable(THEIRS));
    fixture.changes();
    for neighbour in [Neighbour::Unknown, Neighbour::Incomplete] {
        fixture.neighbour("10.0.0.9", neighbour);
        assert_eq!(fixture.changes(), [], "{neighbour:?}");
    }
    fixture.neighbour("10.0.0.9", Neighbour::Failed);
    let failed = Unresolved::NeighbourFailed { interface: "eth4".to_owned(), gateway: ip("10.0.0.9") };
    assert_eq!(fixture.changes(), [("10.0.0.9".to_owned(), Err(failed))]);
    fixture.neighbour("10.0.0.9", Neighbour::Incomplete);
    assert_eq!(fixture.changes(), []);
}

#[test]
fn routes_that_lead_nowhere_are_told_apart() {
    let mut fixture = Fixture::new(&[
        ("10.0.0.1", Route::None),
        ("10.0.0.2", Route::Local),
        ("10.0.0.3", Route::Unreachable),
        ("10.0.0.4", via(9, "10.0.0.4")),
    ]);
    let answers: Vec<_> = fixture.changes().into_iter().map(|(_, answer)| answer.unwrap_err()).collect();
    assert_eq!(answers, [Unresolved::NoRoute, Unresolved::LocalAddress, Unresolved::Unreachable]);
    fixture.table.set_link(LinkFacts { ethernet: false, kind: Some("tun".to_owned()), ..link(9) }, fixture.now);
    let tun = Unresolved::NoLinkLayerAddress { ifindex: 9, interface: "eth9".to_owned(), kind: "tun".to_owned() };
    assert_eq!(fixture.changes(), [("10.0.0.4".to_owned(), Err(tun))]);
}

#[test]
fn a_link_that_goes_down_forgets_its_neighbours_and_asks_for_them_when_it_is_back() {
    let mut fixture = Fixture::new(&[("10.0.0.9", via(ETH, "10.0.0.9"))]);
    fixture.neighbour("10.0.0.9", Neighbour::Usable(THEIRS));
    fixture.changes();
    assert!(fixture.table.set_link(LinkFacts { up: false, ..link(ETH) }, fixture.now));
    let down = Unresolved::InterfaceDown { interface: "eth4".to_owned() };
    assert_eq!(fixture.changes(), [("10.0.0.9".to_owned(), Err(down))]);
    assert_eq!(fixture.probe(), None);
    assert!(fixture.table.set_link(link(ETH), fixture.now));
    let pending = Unresolved::NeighbourPending { interface: "eth4".to_owned(), gateway: ip("10.0.0.9") };
    assert_eq!(fixture.changes(), [("10.0.0.9".to_owned(), Err(pending))]);
    assert_eq!(fixture.probe(), Some(("10.0.0.9".to_owned(), Duration::ZERO)));
}

#[test]
fn an_interface_that_no_longer_takes_redirects_changes_answers_and_the_map_of_links() {
    let mut fixture = Fixture::new(&[("10.0.0.9", via(ETH, "10.0.0.9"))]);
    fixture.table.set_link(LinkFacts { ethernet: false, ..link(1) }, fixture.now);
    fixture.neighbour("10.0.0.9", Neighbour::Usable(THEIRS));
    let changes = fixture.table.take_changes();
    assert_eq!(changes.redirects, Some(BTreeMap::from([(ETH, true)])));
    fixture.table.set_features(ETH, 0);
    let changes = fixture.table.take_changes();
    assert_eq!(changes.redirects, Some(BTreeMap::from([(ETH, false)])));
    assert!(!changes.next_hops[&ip("10.0.0.9")].as_ref().unwrap().hop.takes_redirects);
    // A later message about the link, which tells no features, does not bring them back.
    assert!(!fixture.table.set_link(LinkFacts { xdp_features: None, ..link(ETH) }, fixture.now));
    assert!(fixture.table.take_changes().is_empty());
}

#[test]
fn a_new_mtu_and_a_new_mac_are_changes() {
    let mut fixture = Fixture::new(&[("10.0.0.9", via(ETH, "10.0.0.9"))]);
    fixture.neighbour("10.0.0.9", Neighbour::Usable(THEIRS));
    fixture.table.take_changes();
    for (link_mtu, route_mtu, mtu) in
        [(1500, None, None), (9000, None, Some(9000)), (9000, Some(1400), Some(1400)), (1300, Some(1400), Some(1300))]
    {
        assert!(!fixture.table.set_link(LinkFacts { mtu: link_mtu, ..link(ETH) }, fixture.now));
        let route = Route::Via { ifindex: ETH, neighbour: ip("10.0.0.9"), source: Some(ip("10.0.0.2")), mtu: route_mtu };
        if mtu.is_some() {
            fixture.table.set_route(ip("10.0.0.9"), route, fixture.now);
        }
        let changes = fixture.table.take_changes();
        assert_eq!(changes.next_hops.values().next().map(|answer| answer.as_ref().unwrap().hop.mtu), mtu);
    }
    assert!(!fixture.table.set_link(LinkFacts { mac: OTHERS, ..link(ETH) }, fixture.now));
    let changes = fixture.table.take_changes();
    assert_eq!(changes.next_hops[&ip("10.0.0.9")].as_ref().unwrap().hop.source, OTHERS);
}

#[test]
fn what_is_not_wanted_any_more_is_neither_probed_nor_answered() {
    let mut fixture = Fixture::new(&[("10.0.0.8", via(ETH, "10.0.0.8")), ("10.0.0.9", via(ETH, "10.0.0.9"))]);
    assert!(fixture.table.want(&[(ip("10.0.0.9"), 0)].into()).is_empty());
    fixture.neighbour("10.0.0.8", Neighbour::Usable(THEIRS));
    assert_eq!(fixture.changes().len(), 1);
    assert_eq!(fixture.probe(), Some(("10.0.0.9".to_owned(), Duration::ZERO)));
    assert_eq!(fixture.probe(), Some(("10.0.0.9".to_owned(), Duration::from_millis(50))));
    // Wanted again, it is answered again even though it is the same.
    assert_eq!(fixture.table.want(&[(ip("10.0.0.8"), 1), (ip("10.0.0.9"), 0)].into()), [ip("10.0.0.8")]);
    fixture.route("10.0.0.8", via(ETH, "10.0.0.8"));
    assert_eq!(fixture.changes().len(), 1);
    // So it is if nothing was heard of the time in between.
    assert_eq!(fixture.table.want(&[(ip("10.0.0.8"), 2), (ip("10.0.0.9"), 0)].into()), [ip("10.0.0.8")]);
    fixture.route("10.0.0.8", via(ETH, "10.0.0.8"));
    assert_eq!(fixture.changes().len(), 1);
}

#[test]
fn a_neighbour_that_several_need_is_followed_until_the_last_one_goes_elsewhere() {
    let gateway = via(ETH, "10.0.0.1");
    let mut fixture = Fixture::new(&[("10.1.0.1", gateway), ("10.1.0.2", gateway)]);
    fixture.route("10.1.0.1", Route::None);
    assert_eq!(fixture.table.neighbours.len(), 1);
    fixture.route("10.1.0.2", Route::None);
    assert_eq!((fixture.table.neighbours.len(), fixture.table.probes.len()), (0, 0));
}

#[test]
fn probes_of_a_silent_neighbour_come_fast_at_first_and_then_every_ten_seconds() {
    let mut fixture = Fixture::new(&[("10.0.0.9", via(ETH, "10.0.0.9"))]);
    let mut waits_ms = Vec::new();
    for _ in 0..9 {
        let (_, waited) = fixture.probe().unwrap();
        waits_ms.push(waited.as_millis());
        fixture.neighbour("10.0.0.9", Neighbour::Incomplete);
    }
    assert_eq!(waits_ms, [0, 50, 200, 1000, 2000, 5000, 10000, 10000, 10000]);
}

#[test]
fn a_stale_neighbour_is_used_at_once_and_then_in_growing_intervals_until_confirmed() {
    let mut fixture = Fixture::new(&[("10.0.0.9", via(ETH, "10.0.0.9"))]);
    fixture.neighbour("10.0.0.9", Neighbour::Usable(THEIRS));
    assert_eq!(fixture.probe(), None);
    fixture.neighbour("10.0.0.9", Neighbour::Stale(THEIRS));
    for expected_ms in [0, 50, 200, 1000] {
        assert_eq!(fixture.probe(), Some(("10.0.0.9".to_owned(), Duration::from_millis(expected_ms))));
        fixture.neighbour("10.0.0.9", Neighbour::Stale(THEIRS));
    }
    fixture.neighbour("10.0.0.9", Neighbour::Usable(THEIRS));
    assert_eq!(fixture.probe(), None);
}

#[test]
fn lost_events_make_resolved_neighbours_be_looked_at_too() {
    let mut fixture = Fixture::new(&[("10.0.0.9", via(ETH, "10.0.0.9"))]);
    fixture.neighbour("10.0.0.9", Neighbour::Usable(THEIRS));
    fixture.table.probe_all(fixture.now);
    assert_eq!(fixture.probe(), Some(("10.0.0.9".to_owned(), Duration::ZERO)));
}

#[test]
fn links_that_are_gone_after_a_reading_are_removed() {
    let mut fixture = Fixture::new(&[]);
    assert!(!fixture.table.retain_links(&[ETH].into()));
    assert!(fixture.table.retain_links(&BTreeSet::new()));
    assert_eq!(fixture.table.take_changes().redirects, Some(BTreeMap::new()));
}

#[test]
fn ranges_name_the_wanted_addresses_within() {
    let fixture = Fixture::new(&[("10.0.0.1", Route::None), ("10.1.0.1", Route::None), ("2001:db8::1", Route::None)]);
    let within: Vec<_> = fixture.table.wanted_in(ip("10.1.0.0")..=ip("10.1.255.255")).collect();
    assert_eq!(within, [ip("10.1.0.1")]);
    let v4: Vec<_> = fixture.table.wanted_in(ip("0.0.0.0")..=ip("255.255.255.255")).collect();
    assert_eq!(v4.len(), 2);
}

#[test]
fn another_way_of_being_attached_changes_who_takes_redirected_frames_and_nothing_else() {
    let mut fixture = Fixture::new(&[("10.0.0.9", via(ETH, "10.0.0.9"))]);
    fixture.table.set_link(LinkFacts { xdp_features: Some(0), ..link(ETH) }, fixture.now);
    fixture.neighbour("10.0.0.9", Neighbour::Usable(THEIRS));
    fixture.table.take_changes();
    for (mode, takes_redirects) in [(RedirectMode::Generic, true), (RedirectMode::Native, false)] {
        fixture.table.set_mode(mode);
        let changes = fixture.table.take_changes();
        assert_eq!(changes.redirects, Some(BTreeMap::from([(ETH, takes_redirects)])), "{mode:?}");
        let way = changes.next_hops[&ip("10.0.0.9")].as_ref().unwrap();
        assert_eq!((way.hop.destination, way.hop.takes_redirects), (THEIRS, takes_redirects), "{mode:?}");
        fixture.table.set_mode(mode);
        assert!(fixture.table.take_changes().is_empty(), "{mode:?} again");
    }
}
