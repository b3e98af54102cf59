//! The task that makes rules and tables, and removes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tokio::sync::mpsc;

use super::kernel::{Exit, Kernel, Leads, Link};
use super::tunnel::Tunnel;
use super::{Goal, Mark, N_TABLES, Order, Range, Trouble, Way, frame};

pub async fn run(range: Range, mut asked: mpsc::UnboundedReceiver<Order>) {
    let mut steerer = Steerer { range, kernel: None, tunnel: None, seats: BTreeMap::new() };
    // A killed daemon's; and if they cannot be claimed, they are another's who lives.
    if let Ok(kernel) = steerer.kernel() {
        kernel.sweep(range).await;
    }
    while let Some(order) = asked.recv().await {
        match order {
            // Who asked may have gone.
            Order::Aim { vip, goal, answer } => drop(answer.send(steerer.aim(vip, goal).await)),
            Order::Lease { goal } => steerer.lease(goal),
            Order::Release { goal } => steerer.release(goal).await,
            Order::End { answer } => {
                steerer.end().await;
                let _ = answer.send(());
                return;
            }
        }
    }
}

struct Steerer {
    range: Range,
    kernel: Option<Kernel>,
    /// While a backend behind a tunnel has a seat.
    tunnel: Option<Tunnel>,
    seats: BTreeMap<Goal, Seat>,
}

/// What a backend has, by one of the ways.
#[derive(Default)]
struct Seat {
    /// `None` where all were taken.
    table: Option<u32>,
    /// For which families of VIPs there may be a rule and routes: `true` is IPv4. Through a tunnel, that need not be the backend's.
    made: BTreeSet<bool>,
    n_leases: usize,
}

impl Steerer {
    fn kernel(&mut self) -> Result<&mut Kernel, Trouble> {
        match &mut self.kernel {
            Some(kernel) => Ok(kernel),
            none => Ok(none.insert(Kernel::claim(self.range)?)),
        }
    }

    fn lease(&mut self, goal: Goal) {
        let free = || {
            let taken: BTreeSet<u32> = self.seats.values().filter_map(|seat| seat.table).collect();
            let mut tables = (0..N_TABLES).map(|n| self.range.first_table.saturating_add(n));
            tables.find(|table| !taken.contains(table))
        };
        let table = match self.seats.get(&goal).and_then(|seat| seat.table) {
            Some(table) => Some(table),
            None => free(),
        };
        let seat = self.seats.entry(goal).or_default();
        seat.table = table;
        seat.n_leases += 1;
    }

    async fn release(&mut self, goal: Goal) {
        let Some(seat) = self.seats.get_mut(&goal) else { return };
        seat.n_leases -= 1;
        if seat.n_leases > 0 {
            return;
        }
        if let Some(seat) = self.seats.remove(&goal) {
            self.clear(goal, &seat).await;
        }
        let is_needed = self.seats.keys().any(|goal| goal.way != Way::Direct);
        if let Some(tunnel) = self.tunnel.take_if(|_| !is_needed) {
            tunnel.close().await;
        }
    }

    /// The device, and what stands for the seat on it. `None` while it is not there.
    fn link(&self, table: u32) -> Option<Link> {
        let tunnel = self.tunnel.as_ref().filter(|tunnel| tunnel.is_open())?;
        Some(Link { ifindex: tunnel.ifindex(), mac: frame::mac(self.range.number(table)) })
    }

    /// Where the seat's table has to lead packets for the VIP. `None` while the device for that is not there.
    async fn exit(&mut self, vip: IpAddr, goal: Goal, table: u32) -> Result<Option<Exit>, Trouble> {
        if goal.way == Way::Direct {
            return Ok(Some(Exit { gateway: goal.backend, link: None, source: None }));
        }
        let Some(link) = self.link(table) else { return Ok(None) };
        // Of the other family, the kernel chooses among all that this machine has.
        let source = match goal.backend.is_ipv4() == vip.is_ipv4() {
            true => self.kernel()?.source_towards(goal.backend).await?,
            false => None,
        };
        let gateway = frame::gateway(self.range.number(table), vip.is_ipv4());
        Ok(Some(Exit { gateway, link: Some(link), source }))
    }

    async fn aim(&mut self, vip: IpAddr, goal: Goal) -> Result<Mark, Trouble> {
        let priority = self.range.priority;
        let seat = self.seats.get(&goal).ok_or(Trouble::Ending)?;
        let table = seat.table.ok_or(Trouble::NoTableLeft)?;
        if seat.made.contains(&vip.is_ipv4()) && self.leads(vip, goal, table).await? == Leads::There {
            return Ok(Mark(table));
        }
        self.make(vip, goal, table).await?;
        match self.leads(vip, goal, table).await? {
            Leads::There => Ok(Mark(table)),
            Leads::Here => Err(Trouble::VipIsLocal { vip }),
            Leads::Elsewhere => Err(Trouble::TakenByOthers { vip, mark: table, priority }),
        }
    }

    async fn leads(&mut self, vip: IpAddr, goal: Goal, table: u32) -> Result<Leads, Trouble> {
        match self.exit(vip, goal, table).await? {
            Some(exit) => self.kernel()?.leads_to(vip, exit, table).await,
            None => Ok(Leads::Elsewhere),
        }
    }

    async fn make(&mut self, vip: IpAddr, goal: Goal, table: u32) -> Result<(), Trouble> {
        let (is_v4, priority) = (vip.is_ipv4(), self.range.priority);
        self.kernel()?;
        if goal.way != Way::Direct {
            self.open_tunnel(goal, self.range.number(table), is_v4).await?;
        }
        let exit = self.exit(vip, goal, table).await?.ok_or(Trouble::DeviceLost)?;
        if let Some(seat) = self.seats.get_mut(&goal) {
            // Half of it may be there if that fails.
            seat.made.insert(is_v4);
        }
        self.kernel()?.make(exit, table, priority).await
    }

    /// Has packets with this number go to the backend, by a device that is made if it is not there.
    async fn open_tunnel(&mut self, goal: Goal, number: u16, is_v4: bool) -> Result<(), Trouble> {
        if !self.has_device().await? {
            let tunnel = self.tunnel.insert(Tunnel::open()?);
            let ifindex = tunnel.ifindex();
            self.kernel()?.bring_up(ifindex).await?;
        }
        self.tunnel.as_mut().ok_or(Trouble::DeviceLost)?.lead(number, is_v4, goal)
    }

    /// Whether there is a device; one that was taken down is up again then.
    async fn has_device(&mut self) -> Result<bool, Trouble> {
        // Of a device that is deleted, the task that reads from it hears nothing.
        let Some(ifindex) = self.tunnel.as_ref().filter(|tunnel| tunnel.is_open()).map(Tunnel::ifindex) else { return Ok(false) };
        match self.kernel()?.bring_up(ifindex).await {
            Err(Trouble::DeviceLost) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Removes what a seat has.
    async fn clear(&mut self, goal: Goal, seat: &Seat) {
        let Some(table) = seat.table else { return };
        let (number, priority) = (self.range.number(table), self.range.priority);
        let link = self.link(table).filter(|_| goal.way != Way::Direct);
        for &is_v4 in &seat.made {
            let Some(kernel) = &mut self.kernel else { return };
            kernel.remove(is_v4, table, priority).await;
            if let Some(link) = link {
                kernel.remove_neighbour(link, frame::gateway(number, is_v4)).await;
            }
        }
        if let Some(tunnel) = self.tunnel.as_ref().filter(|_| goal.way != Way::Direct) {
            tunnel.forget(number);
        }
    }

    async fn end(&mut self) {
        for (goal, seat) in std::mem::take(&mut self.seats) {
            self.clear(goal, &seat).await;
        }
        if let Some(tunnel) = self.tunnel.take() {
            tunnel.close().await;
        }
    }
}
