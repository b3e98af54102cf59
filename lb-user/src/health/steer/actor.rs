//! The task that makes rules and tables, and removes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tokio::sync::mpsc;

use super::kernel::{Kernel, Leads};
use super::{Mark, N_TABLES, Order, Range, Trouble};

pub async fn run(range: Range, mut asked: mpsc::UnboundedReceiver<Order>) {
    let mut steerer = Steerer { range, kernel: None, seats: BTreeMap::new() };
    // A killed daemon's; and if they cannot be claimed, they are another's who lives.
    if let Ok(kernel) = steerer.kernel().await {
        kernel.sweep(range).await;
    }
    while let Some(order) = asked.recv().await {
        match order {
            // Who asked may have gone.
            Order::Aim { vip, backend, answer } => drop(answer.send(steerer.aim(vip, backend).await)),
            Order::Lease { backend } => steerer.lease(backend),
            Order::Release { backend } => steerer.release(backend).await,
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
    seats: BTreeMap<IpAddr, Seat>,
}

/// What a backend's address has.
struct Seat {
    /// `None` where all were taken.
    table: Option<u32>,
    is_made: bool,
    n_leases: usize,
}

impl Steerer {
    async fn kernel(&mut self) -> Result<&mut Kernel, Trouble> {
        match &mut self.kernel {
            Some(kernel) => Ok(kernel),
            none => Ok(none.insert(Kernel::claim(self.range)?)),
        }
    }

    fn lease(&mut self, backend: IpAddr) {
        let free = || {
            let taken: BTreeSet<u32> = self.seats.values().filter_map(|seat| seat.table).collect();
            let mut tables = (0..N_TABLES).map(|n| self.range.first_table.saturating_add(n));
            tables.find(|table| !taken.contains(table))
        };
        let table = match self.seats.get(&backend).and_then(|seat| seat.table) {
            Some(table) => Some(table),
            None => free(),
        };
        let seat = self.seats.entry(backend).or_insert(Seat { table: None, is_made: false, n_leases: 0 });
        seat.table = table;
        seat.n_leases += 1;
    }

    async fn release(&mut self, backend: IpAddr) {
        let Some(seat) = self.seats.get_mut(&backend) else { return };
        seat.n_leases -= 1;
        if seat.n_leases > 0 {
            return;
        }
        let seat = self.seats.remove(&backend);
        let made = seat.filter(|seat| seat.is_made).and_then(|seat| seat.table);
        if let (Some(table), Some(kernel)) = (made, &mut self.kernel) {
            kernel.remove(backend.is_ipv4(), table, self.range.priority).await;
        }
    }

    async fn aim(&mut self, vip: IpAddr, backend: IpAddr) -> Result<Mark, Trouble> {
        let priority = self.range.priority;
        let seat = self.seats.get(&backend).ok_or(Trouble::Ending)?;
        let (table, is_made) = (seat.table.ok_or(Trouble::NoTableLeft)?, seat.is_made);
        let kernel = self.kernel().await?;
        if is_made && kernel.leads_to(vip, backend, table).await? == Leads::There {
            return Ok(Mark(table));
        }
        let made = kernel.make(backend, table, priority).await;
        if let Some(seat) = self.seats.get_mut(&backend) {
            // Half of it may be there.
            seat.is_made = true;
        }
        made?;
        match self.kernel().await?.leads_to(vip, backend, table).await? {
            Leads::There => Ok(Mark(table)),
            Leads::Here => Err(Trouble::VipIsLocal { vip }),
            Leads::Elsewhere => Err(Trouble::TakenByOthers { vip, mark: table, priority }),
        }
    }

    async fn end(&mut self) {
        let priority = self.range.priority;
        let seats = std::mem::take(&mut self.seats);
        let Some(kernel) = &mut self.kernel else { return };
        for (backend, seat) in seats.into_iter().filter(|(_, seat)| seat.is_made) {
            if let Some(table) = seat.table {
                kernel.remove(backend.is_ipv4(), table, priority).await;
            }
        }
    }
}
