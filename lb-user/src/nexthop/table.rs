//! What is known of routes, links and neighbours, and the answers that follow from it. No I/O, and time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Instant;

use lb_common::MacAddr;

use super::links::{LinkFacts, takes_redirects};
use super::neighbours::{Key, Neighbour};
use super::probe::{self, Queue};
use super::routes::Route;
use super::{Answer, Changes, RedirectMode, Unresolved, Way, Wishes};
use crate::desired::NextHop;

/// Everything known. Neighbours are only followed where a wanted address needs them.
#[derive(Debug)]
pub struct Table {
    mode: RedirectMode,
    wanted: BTreeMap<IpAddr, Wanted>,
    links: BTreeMap<u32, LinkFacts>,
    neighbours: BTreeMap<Key, Tracked>,
    probes: Queue,
    /// Wanted addresses whose answer may differ from the one sent.
    touched: BTreeSet<IpAddr>,
    links_touched: bool,
    redirects_sent: Option<BTreeMap<u32, bool>>,
}

#[derive(Debug, Default)]
struct Wanted {
    /// The wish's number.
    wish: u64,
    /// `None` before the kernel was first asked.
    route: Option<Route>,
    sent: Option<Answer>,
}

impl Wanted {
    fn key(&self) -> Option<Key> {
        match self.route {
            Some(Route::Via { ifindex, neighbour, .. }) => Some(Key { ifindex, address: neighbour }),
            _ => None,
        }
    }
}

/// A neighbour that wanted addresses need.
#[derive(Debug)]
struct Tracked {
    users: BTreeSet<IpAddr>,
    view: View,
    n_attempts: usize,
    /// Its place in the queue.
    due: Option<Instant>,
}

/// What answers say of a neighbour. It outlasts the kernel's forgetting the entry or asking again, so that traffic does
/// not stop for either: only a failure ends it, or the link's going down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum View {
    Pending,
    Resolved(MacAddr),
    Failed,
}

impl Table {
    pub fn new(mode: RedirectMode) -> Self {
        Self {
            mode,
            wanted: BTreeMap::new(),
            links: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            probes: Queue::default(),
            touched: BTreeSet::new(),
            links_touched: false,
            redirects_sent: None,
        }
    }

    /// Another way in which the program is attached: other interfaces may take what it redirects.
    pub fn set_mode(&mut self, mode: RedirectMode) {
        if std::mem::replace(&mut self.mode, mode) != mode {
            self.links_touched = true;
            self.touched.extend(self.wanted.keys());
        }
    }

    /// Replaces the wanted addresses. Yields the new ones, whose routes are to be asked for.
    pub fn want(&mut self, wishes: &Wishes) -> Vec<IpAddr> {
        let is_over = |(address, wanted): &(&IpAddr, &Wanted)| wishes.get(address) != Some(&wanted.wish);
        let unwanted: Vec<_> = self.wanted.iter().filter(is_over).map(|(address, _)| *address).collect();
        for address in unwanted {
            let key = self.wanted.remove(&address).and_then(|wanted| wanted.key());
            self.untrack(key, address);
            self.touched.remove(&address);
        }
        let new: Vec<_> = wishes.iter().filter(|(address, _)| !self.wanted.contains_key(address)).collect();
        self.wanted.extend(new.iter().map(|&(address, &wish)| (*address, Wanted { wish, ..Wanted::default() })));
        new.into_iter().map(|(address, _)| *address).collect()
    }

    /// The wanted addresses within a range.
    pub fn wanted_in(&self, range: RangeInclusive<IpAddr>) -> impl Iterator<Item = IpAddr> {
        self.wanted.range(range).map(|(address, _)| *address)
    }

    pub fn all_wanted(&self) -> impl Iterator<Item = IpAddr> {
        self.wanted.keys().copied()
    }

    pub fn set_route(&mut self, address: IpAddr, route: Route, now: Instant) {
        let Some(wanted) = self.wanted.get_mut(&address) else { return };
        let before = wanted.key();
        if wanted.route.replace(route) == Some(route) {
            return;
        }
        let after = wanted.key();
        self.touched.insert(address);
        self.untrack(before.filter(|_| before != after), address);
        let Some(key) = after else { return };
        let reachable = self.can_probe(key.ifindex);
        let tracked = self.neighbours.entry(key).or_insert_with(|| {
            let mut due = None;
            self.probes.set(key, &mut due, reachable.then_some(now));
            Tracked { users: BTreeSet::new(), view: View::Pending, n_attempts: 0, due }
        });
        tracked.users.insert(address);
    }

    fn untrack(&mut self, key: Option<Key>, address: IpAddr) {
        let Some(key) = key else { return };
        let Some(tracked) = self.neighbours.get_mut(&key) else { return };
        tracked.users.remove(&address);
        if tracked.users.is_empty() {
            self.probes.set(key, &mut tracked.due, None);
            self.neighbours.remove(&key);
        }
    }

    pub fn set_neighbour(&mut self, key: Key, neighbour: Neighbour, now: Instant) {
        let Some(tracked) = self.neighbours.get_mut(&key) else { return };
        let view = match neighbour {
            Neighbour::Usable(mac) | Neighbour::Stale(mac) => View::Resolved(mac),
            Neighbour::Failed => View::Failed,
            Neighbour::Incomplete | Neighbour::Unknown => tracked.view,
        };
        if view != tracked.view {
            tracked.view = view;
            tracked.n_attempts = 0;
            self.touched.extend(&tracked.users);
        }
        let due = match neighbour {
            Neighbour::Usable(_) => {
                tracked.n_attempts = 0;
                None
            }
            // An attempt that is already planned is not brought forward: what it meets may be this very state.
            _ => tracked.due.or(Some(now)),
        };
        let due = due.filter(|_| self.links.get(&key.ifindex).is_some_and(can_probe));
        self.probes.set(key, &mut tracked.due, due);
    }

    /// Yields whether routes may have changed with it, which the kernel does not announce.
    pub fn set_link(&mut self, mut facts: LinkFacts, now: Instant) -> bool {
        let ifindex = facts.ifindex;
        let before = self.links.get(&ifindex);
        if let Some(before) = before {
            facts.xdp_features = facts.xdp_features.or(before.xdp_features);
        }
        if before == Some(&facts) {
            return false;
        }
        let was_up = before.is_some_and(|link| link.up);
        let came_or_went = was_up != facts.up || before.is_none();
        let probes_before = before.is_some_and(can_probe);
        let probes_now = can_probe(&facts);
        self.links.insert(ifindex, facts);
        self.links_touched = true;
        self.touch_users(ifindex);
        match (probes_before, probes_now) {
            (true, false) => self.forget_neighbours(ifindex),
            (false, true) => self.probe_again(ifindex, now),
            _ => {}
        }
        came_or_went
    }

    /// What XDP can do on a link that is known already.
    pub fn set_features(&mut self, ifindex: u32, features: u64) {
        let Some(link) = self.links.get_mut(&ifindex) else { return };
        if link.xdp_features.replace(features) != Some(features) {
            self.links_touched = true;
            self.touch_users(ifindex);
        }
    }

    /// Yields whether it was known, so that routes may have gone with it.
    pub fn remove_link(&mut self, ifindex: u32) -> bool {
        let was_known = self.links.remove(&ifindex).is_some();
        self.links_touched |= was_known;
        self.forget_neighbours(ifindex);
        was_known
    }

    /// Removes all links but these. Yields whether any was.
    pub fn retain_links(&mut self, present: &BTreeSet<u32>) -> bool {
        let gone: Vec<_> = self.links.keys().filter(|ifindex| !present.contains(ifindex)).copied().collect();
        gone.iter().fold(false, |any, ifindex| self.remove_link(*ifindex) | any)
    }

    pub fn knows_link(&self, ifindex: u32) -> bool {
        self.links.contains_key(&ifindex)
    }

    /// Asks at once for a link's neighbours that are not resolved: something there changed for the better.
    pub fn probe_again(&mut self, ifindex: u32, now: Instant) {
        if !self.can_probe(ifindex) {
            return;
        }
        for (key, tracked) in self.neighbours.range_mut(keys_of(ifindex)) {
            if !matches!(tracked.view, View::Resolved(_)) {
                tracked.n_attempts = 0;
                self.probes.set(*key, &mut tracked.due, Some(now));
            }
        }
    }

    /// Looks at every neighbour anew: events about them were lost.
    pub fn probe_all(&mut self, now: Instant) {
        for (key, tracked) in &mut self.neighbours {
            if self.links.get(&key.ifindex).is_some_and(can_probe) {
                self.probes.set(*key, &mut tracked.due, Some(now));
            }
        }
    }

    pub fn next_probe(&self) -> Option<Instant> {
        self.probes.next()
    }

    /// A neighbour to ask for now. Its next attempt is planned with this.
    pub fn take_probe(&mut self, now: Instant) -> Option<Key> {
        let key = self.probes.first_due(now)?;
        let tracked = self.neighbours.get_mut(&key)?;
        let next = now + probe::wait(tracked.n_attempts);
        tracked.n_attempts = tracked.n_attempts.saturating_add(1);
        self.probes.set(key, &mut tracked.due, Some(next));
        Some(key)
    }

    pub fn is_touched(&self) -> bool {
        self.links_touched || !self.touched.is_empty()
    }

    /// What differs from what was taken before.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for address in std::mem::take(&mut self.touched) {
            let answer = self.wanted.get(&address).and_then(|wanted| self.answer(address, wanted));
            let (Some(answer), Some(wanted)) = (answer, self.wanted.get_mut(&address)) else { continue };
            if wanted.sent.as_ref() != Some(&answer) {
                wanted.sent = Some(answer.clone());
                changes.next_hops.insert(address, answer);
            }
        }
        if std::mem::take(&mut self.links_touched) {
            let ethernet = self.links.iter().filter(|(_, link)| link.ethernet);
            let redirects = ethernet.map(|(ifindex, link)| (*ifindex, takes_redirects(link, self.mode))).collect();
            if self.redirects_sent.as_ref() != Some(&redirects) {
                self.redirects_sent = Some(redirects.clone());
                changes.redirects = Some(redirects);
            }
        }
        changes
    }

    /// `None` while the kernel has not been asked, or has named a link that is only about to be announced.
    fn answer(&self, address: IpAddr, wanted: &Wanted) -> Option<Answer> {
        let (key, source, mtu) = match wanted.route? {
            Route::None => return Some(Err(Unresolved::NoRoute)),
            Route::Local => return Some(Err(Unresolved::LocalAddress)),
            Route::Unreachable => return Some(Err(Unresolved::Unreachable)),
            Route::Via { ifindex, neighbour, source, mtu } => (Key { ifindex, address: neighbour }, source, mtu),
        };
        let link = self.links.get(&key.ifindex)?;
        let (interface, neighbour) = (link.name.clone(), key.address);
        if !link.up {
            return Some(Err(Unresolved::InterfaceDown { interface }));
        }
        if !link.ethernet {
            let kind = link.kind.clone().unwrap_or_else(|| "no Ethernet".to_owned());
            return Some(Err(Unresolved::NoLinkLayerAddress { ifindex: link.ifindex, interface, kind }));
        }
        Some(match self.neighbours.get(&key)?.view {
            View::Pending => Err(Unresolved::NeighbourPending { interface, gateway: neighbour }),
            View::Failed => Err(Unresolved::NeighbourFailed { interface, gateway: neighbour }),
            View::Resolved(destination) => {
                let takes_redirects = takes_redirects(link, self.mode);
                let mtu = mtu.unwrap_or(u32::MAX).min(link.mtu).try_into().unwrap_or(u16::MAX);
                let hop = NextHop { ifindex: link.ifindex, source: link.mac, destination, takes_redirects, address: source, mtu };
                Ok(Way { hop, gateway: (neighbour != address).then_some(neighbour) })
            }
        })
    }

    fn can_probe(&self, ifindex: u32) -> bool {
        self.links.get(&ifindex).is_some_and(can_probe)
    }

    fn touch_users(&mut self, ifindex: u32) {
        let tracked = self.neighbours.range(keys_of(ifindex)).map(|(_, tracked)| tracked);
        self.touched.extend(tracked.flat_map(|tracked| &tracked.users));
    }

    fn forget_neighbours(&mut self, ifindex: u32) {
        for (key, tracked) in self.neighbours.range_mut(keys_of(ifindex)) {
            tracked.view = View::Pending;
            tracked.n_attempts = 0;
            self.probes.set(*key, &mut tracked.due, None);
        }
        self.touch_users(ifindex);
    }
}

/// Neighbours can be asked for on it.
fn can_probe(link: &LinkFacts) -> bool {
    link.up && link.ethernet
}

/// The keys of a link's neighbours. IPv4 addresses sort before IPv6.
fn keys_of(ifindex: u32) -> RangeInclusive<Key> {
    let first = Key { ifindex, address: Ipv4Addr::UNSPECIFIED.into() };
    let last = Key { ifindex, address: std::net::Ipv6Addr::from_bits(u128::MAX).into() };
    first..=last
}

#[cfg(test)]
mod tests;
