//! What stands in the maps, for whoever wants to follow a packet.

use lb_common::admission::{Line, Rules};
use lb_common::directory::Bucket;
use lb_common::flow::{self, Tick};
use lb_common::load::Load;
use lb_common::meter;
use lb_common::records::{Backend, Link, Service, Settings};
use lb_common::session::{Pool, Session};
use lb_common::{BackendId, Slot};

use super::KernelMaps;
use crate::explain::Records;

impl Records for KernelMaps {
    fn settings(&self) -> Settings {
        Self::settings(self)
    }

    fn service_bucket(&self, index: u32) -> Bucket {
        self.service_buckets.read(index as usize).unwrap_or_default()
    }

    fn reply_bucket(&self, index: u32) -> Bucket {
        self.reply_buckets.read(index as usize).unwrap_or_default()
    }

    fn service(&self, id: u16) -> Service {
        self.services.read(usize::from(id)).unwrap_or_default()
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        (index < self.n_slots()).then(|| Slot::from_raw(self.slots.load_word(index)))
    }

    fn backend(&self, id: BackendId) -> Backend {
        self.backends.read(usize::from(id.0)).unwrap_or_default()
    }

    fn server_id(&self, id: BackendId) -> u64 {
        Self::server_id(self, id)
    }

    fn link(&self, ifindex: u32) -> Option<Link> {
        self.links.read(ifindex as usize)
    }

    fn admission(&self, scope: u16) -> Rules {
        self.admission.read(usize::from(scope)).unwrap_or_default()
    }

    fn prefix_line(&self, index: u32) -> Option<Line> {
        self.prefixes.read(index as usize)
    }

    fn meter(&self, line: u32, position: usize) -> meter::Entry {
        let n_lines = self.meters.len() / meter::ENTRIES;
        meter::Entry::from_raw(self.meters.load_long((line as usize % n_lines * meter::ENTRIES + position) as u32))
    }

    fn known_flow(&self, line: u32, position: usize) -> meter::Entry {
        let n_lines = self.known_flows.len() / meter::ENTRIES;
        meter::Entry::from_raw(self.known_flows.load_long((line as usize % n_lines * meter::ENTRIES + position) as u32))
    }

    fn meter_time(&self) -> u64 {
        super::meter_time()
    }

    fn flow_entry(&self, bucket: u32, position: usize) -> flow::Entry {
        self.flows.entry(bucket, position)
    }

    fn fragment_entry(&self, bucket: u32, position: usize) -> flow::Entry {
        let n_buckets = self.fragments.len() / flow::ENTRIES;
        flow::Entry::from_raw(self.fragments.load_long((bucket as usize % n_buckets * flow::ENTRIES + position) as u32))
    }

    fn load(&self, id: BackendId) -> Load {
        self.loads.backend(id)
    }

    fn active(&self, service: u16) -> u64 {
        self.loads.active(service)
    }

    fn turn(&self, service: u16) -> u64 {
        self.loads.turn(service)
    }

    fn pool(&self) -> Pool {
        self.sessions.pool()
    }

    fn session_tags(&self, line: u32) -> u64 {
        self.sessions.tags(line)
    }

    fn session_at(&self, index: u32) -> Option<Session> {
        self.sessions.at(index)
    }

    fn now(&self) -> Tick {
        super::now()
    }
}
