//! Under ip-hash a client always reaches the same backend.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use xlb_tests::http;

use super::show::{self, Show};
use super::stage::{self, N_BACKENDS, STICKY, Stage};

/// Enough for chance never to leave out a backend: 5 * 0.8^100 is one in a thousand million.
const N_CLIENTS: u8 = 100;
const FIRST_CLIENT: u8 = 100;
const N_CONNECTIONS: usize = 5;

pub fn act(show: &mut Show, stage: &Stage) -> Result<()> {
    show.title("One client, one backend (ip-hash)");
    let clients: Vec<Ipv4Addr> = (0..N_CLIENTS).map(|i| Ipv4Addr::new(10, 1, 0, FIRST_CLIENT + i)).collect();
    stage.client().ip(&clients.iter().map(|client| format!("addr add {client}/24 dev eth0")).collect::<Vec<_>>())?;
    let mut first = Vec::new();
    let mut n_strays = 0;
    for client in clients {
        let source = SocketAddr::new(client.into(), 0);
        let ask = |_| Ok(http::get_from(stage.client(), source, &stage::url(STICKY))?.body.trim().to_owned());
        let names = (0..N_CONNECTIONS).map(ask).collect::<Result<Vec<String>>>()?;
        n_strays += names.iter().filter(|name| **name != names[0]).count();
        first.push(names[0].clone());
    }
    let text = format!(
        "{N_CLIENTS} clients, {N_CONNECTIONS} connections each: {n_strays} of {} went to another backend than the client's first",
        usize::from(N_CLIENTS) * N_CONNECTIONS
    );
    show.claim(n_strays == 0, &text);
    let n_reached = first.iter().collect::<BTreeSet<_>>().len();
    show.claim(n_reached == usize::from(N_BACKENDS), &format!("clients by backend {}", show::bars(&stage::tally(&first)?)));
    Ok(())
}
