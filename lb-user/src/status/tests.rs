use super::*;
use crate::daemon::ServiceSums;

fn backend(id: u16, serves: bool) -> BackendView {
    let endpoint = SocketAddr::from(([10, 0, 0, id as u8], 80));
    BackendView { id: Some(BackendId(id)), serves, ..samples::backend(endpoint) }
}

fn service(backends: Vec<BackendView>, slots: Option<Vec<Slot>>) -> ServiceView {
    ServiceView { id: Some(1), slots: slots.map(Into::into), ..samples::service("web", backends) }
}

fn counted(packets: u64) -> BackendCounters {
    BackendCounters { packets, bytes: packets * 100, connections: packets / 10, ..BackendCounters::default() }
}

#[test]
fn a_share_is_that_of_the_slots_new_flows_go_to() {
    // The second slot is on its way from backend 2 to backend 1.
    let slots = [(1, 1), (1, 2), (1, 1), (2, 2)].map(|(current, settled)| Slot::new(BackendId(current), BackendId(settled)));
    let service = service(vec![backend(1, true), backend(2, true), backend(3, false)], Some(slots.to_vec()));
    let status = service_status(&service, counted(0), &[counted(0); 3], 0);
    let shares: Vec<f64> = status.backends.iter().map(|backend| backend.share).collect();
    assert_eq!(shares, [0.75, 0.25, 0.0]);
}

#[test]
fn before_the_first_tables_and_without_anybody_all_shares_are_zero() {
    for slots in [None, Some(vec![Slot::default(); 8])] {
        let status = service_status(&service(vec![backend(1, false)], slots), counted(0), &[counted(0)], 5);
        assert_eq!((status.backends[0].share, status.state, status.dropped), (0.0, "down", 5));
    }
}

#[test]
fn a_service_has_counted_what_its_backends_have_and_those_that_left() {
    let mut sums = Sums::default();
    sums.services.insert("web".into(), ServiceSums { left: counted(1000), ..ServiceSums::default() });
    let leaving = LeavingView { id: BackendId(3), endpoint: "10.0.0.3:80".parse().unwrap(), base: counted(30_000) };
    let service = ServiceView { leaving: vec![leaving], ..service(vec![backend(1, false), backend(2, true)], None) };
    let left = counted_by_left(&service, &sums, |_| Ok(counted(50_000))).unwrap();
    let status = service_status(&service, left, &[counted(10), counted(200)], 0);
    assert_eq!((status.packets, status.bytes, status.connections, status.state), (21_210, 2_121_000, 2_121, "up"));
    assert_eq!(status.backends.iter().map(|backend| backend.packets).collect::<Vec<_>>(), [10, 200]);
}

#[test]
fn received_is_the_sum_of_the_classes_whatever_was_read_of_it() {
    let mut totals = Totals { received: 1, ..Totals::default() };
    for (n, &verdict) in Verdict::ALL.iter().enumerate() {
        totals.verdicts[verdict as usize] = 1 << n;
    }
    let PacketTotals { received, forwarded, passed, dropped } = packet_totals(&totals);
    let n = Verdict::ALL.len();
    assert_eq!(received, (1 << n) - 1);
    assert_eq!(forwarded + passed + dropped, received);
    assert_eq!((forwarded, passed), (0b111_1111, 0b11_1000_0000));
}
