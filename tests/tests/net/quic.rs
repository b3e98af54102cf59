//! Real QUIC: connections stay with their server when the client's address changes, by the IDs that servers give out.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::pem::PemObject;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig, TokioRuntime,
};
use tokio::runtime::Runtime;
use xlb_tests::certificate::{Authority, Certificate};
use xlb_tests::{Daemon, Host, Netns, Network};

use super::fullnat;
use super::support::{Service, service, vip};

const PORT: u16 = 443;
const NAME: &str = "www.example.org";
/// Whoever does not know a connection says so at once; whoever is not there says nothing.
const PATIENCE: Duration = Duration::from_secs(3);
const N_CONNECTIONS: usize = 12;

/// Connection IDs with a server's in them, of configuration 2.
struct Named {
    server: [u8; 2],
    n: u64,
}

impl ConnectionIdGenerator for Named {
    fn generate_cid(&mut self) -> ConnectionId {
        self.n = self.n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let first = 2 << 5 | (self.n >> 59) as u8;
        ConnectionId::new(&[&[first][..], &self.server, &self.n.to_be_bytes()].concat())
    }

    fn cid_len(&self) -> usize {
        1 + self.server.len() + size_of::<u64>()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn server_id(n: usize) -> [u8; 2] {
    [0x0a, n as u8]
}

/// A balancer and its servers, which answer every stream with their number.
struct Scene {
    network: Network,
    runtime: Runtime,
    authority: Authority,
    _servers: Vec<Endpoint>,
}

impl Scene {
    fn new(n: u8) -> Result<Self> {
        Self::of(Network::dsr(n, &[vip()])?, |_| vip())
    }

    /// Whose servers know neither the VIP nor a way to clients.
    fn behind_full_nat(n: u8) -> Result<Self> {
        Self::of(fullnat::network(n)?, |host| host.v4.into())
    }

    fn of(network: Network, listens: impl Fn(&Host) -> IpAddr) -> Result<Self> {
        let runtime = Runtime::new()?;
        let authority = Authority::new()?;
        let certificate = authority.sign("server", &format!("DNS:{NAME}"))?;
        let serve = |(n, host): (usize, &Host)| runtime.block_on(async { serve(n, &host.netns, listens(host), &certificate) });
        let servers = network.backends.iter().enumerate().map(serve).collect::<Result<_>>()?;
        Ok(Self { network, runtime, authority, _servers: servers })
    }

    fn service(&self, quic: &str) -> Service<'static> {
        let service = Service::new("quic", vip(), PORT).with("protocol", "udp").with("idle", "1m").health("type = \"none\"");
        let hosts = self.network.backends.iter().enumerate();
        let with_id = |service: Service<'static>, (n, host): (usize, &Host)| {
            let [upper, lower] = server_id(n);
            let id = if quic.is_empty() { String::new() } else { format!("server_id = \"{upper:02x}{lower:02x}\"") };
            service.backend(host.v4, &id)
        };
        let service = hosts.fold(service, with_id);
        if quic.is_empty() { service } else { service.source("quic", quic) }
    }

    fn daemon(&self, quic: &str) -> Result<Daemon> {
        self.start(self.service(quic).toml())
    }

    fn daemon_by_full_nat(&self, quic: &str) -> Result<Daemon> {
        self.start(fullnat::POOL.to_owned() + &self.service(quic).with("forward", "fullnat").toml())
    }

    fn start(&self, services: String) -> Result<Daemon> {
        Daemon::new(&self.network.lb.netns, &self.network.lb_interfaces()).services(services).start()
    }

    /// Clients with a connection each, and the number of the server that has it.
    fn connect(&self, n: usize) -> Result<Vec<Client>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority.file())?)?;
        let config = ClientConfig::with_root_certificates(Arc::new(roots))?;
        let connect = || {
            let socket = bind(&self.network.client.netns, ([0; 4], 0).into())?;
            self.runtime.block_on(async {
                let mut endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
                endpoint.set_default_client_config(config.clone());
                let connection = endpoint.connect((vip(), PORT).into(), NAME)?;
                let connection = tokio::time::timeout(PATIENCE, connection).await.context("no handshake")??;
                let server = ask(&connection).await?;
                Ok(Client { endpoint, connection, server })
            })
        };
        (0..n).map(|_| connect()).collect()
    }

    /// Each client goes on from another port; how many are not answered by their server any more.
    fn n_lost_by_moving(&self, clients: &[Client]) -> Result<usize> {
        for client in clients {
            let socket = bind(&self.network.client.netns, ([0; 4], 0).into())?;
            self.runtime.block_on(async { client.endpoint.rebind(socket) })?;
        }
        let answers = clients.iter().map(|client| {
            let connection = client.connection.clone();
            (self.runtime.spawn(async move { ask(&connection).await }), client.server)
        });
        let answers: Vec<_> = answers.collect();
        let is_lost = |(answer, server): (tokio::task::JoinHandle<Result<u8>>, u8)| !matches!(self.runtime.block_on(answer), Ok(Ok(answered)) if answered == server);
        Ok(answers.into_iter().map(is_lost).filter(|is_lost| *is_lost).count())
    }
}

struct Client {
    endpoint: Endpoint,
    connection: Connection,
    server: u8,
}

fn bind(netns: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    netns.enter(|| Ok(UdpSocket::bind(address)?))
}

fn serve(n: usize, netns: &Netns, address: IpAddr, certificate: &Certificate) -> Result<Endpoint> {
    let chain = CertificateDer::pem_file_iter(&certificate.chain)?.collect::<Result<_, _>>()?;
    let config = ServerConfig::with_single_cert(chain, PrivateKeyDer::from_pem_file(&certificate.key)?)?;
    let mut ids = EndpointConfig::default();
    ids.cid_generator(move || Box::new(Named { server: server_id(n), n: n as u64 }));
    let socket = bind(netns, (address, PORT).into())?;
    let endpoint = Endpoint::new(ids, Some(config), socket, Arc::new(TokioRuntime))?;
    let incoming = endpoint.clone();
    tokio::spawn(async move {
        while let Some(connecting) = incoming.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = connecting.await else { return };
                while let Ok((mut answer, mut question)) = connection.accept_bi().await {
                    let _ = question.read_to_end(64).await;
                    let _ = answer.write_all(&[n as u8]).await;
                    let _ = answer.finish();
                }
            });
        }
    });
    Ok(endpoint)
}

/// The number of the server that answers on a connection.
async fn ask(connection: &Connection) -> Result<u8> {
    let exchange = async {
        let (mut question, mut answer) = connection.open_bi().await?;
        question.write_all(b"who?").await?;
        question.finish()?;
        let answer = answer.read_to_end(64).await?;
        answer.first().copied().context("an empty answer")
    };
    tokio::time::timeout(PATIENCE, exchange).await.context("no answer")?
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn without_connection_ids_clients_that_move_are_lost() -> Result<()> {
    let scene = Scene::new(4)?;
    let daemon = scene.daemon("")?;
    let clients = scene.connect(N_CONNECTIONS)?;
    let n_lost = scene.n_lost_by_moving(&clients)?;
    ensure!(n_lost > N_CONNECTIONS / 3, "three of four servers do not know them, but only {n_lost} were lost");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_connection_stays_with_its_server_wherever_the_client_goes_and_whatever_changes() -> Result<()> {
    let scene = Scene::new(4)?;
    let mut daemon = scene.daemon("config_ids = [2]")?;
    let clients = scene.connect(N_CONNECTIONS)?;
    for _ in 0..3 {
        ensure!(scene.n_lost_by_moving(&clients)? == 0, "{}", daemon.log());
    }
    // Drained: who is there stays, wherever it goes; and is counted.
    let drained = clients[0].server;
    let address = scene.network.backends[usize::from(drained)].v4.to_string();
    daemon.xlb(&["drain", "quic", &address])?;
    ensure!(scene.n_lost_by_moving(&clients)? == 0, "{}", daemon.log());
    let status = service(&daemon.status()?, "quic")?["backends"][usize::from(drained)].clone();
    ensure!(status["server_id"] == format!("0a{drained:02x}") && status["drain"].is_object(), "{status:#}");
    let others = scene.connect(N_CONNECTIONS)?;
    ensure!(others.iter().all(|client| client.server != drained), "a drained server got new connections");
    // Killed, and started again: the IDs are in the kernel.
    let builder = daemon.builder();
    daemon.kill();
    ensure!(scene.n_lost_by_moving(&clients)? == 0);
    let mut daemon = builder.start()?;
    ensure!(scene.n_lost_by_moving(&clients)? == 0, "{}", daemon.log());
    // Added and removed: whoever is not concerned does not notice.
    let others: Vec<Client> = clients.into_iter().chain(others).filter(|client| client.server != drained).collect();
    let all = scene.service("config_ids = [2]").toml();
    let without = all.replace(
        &format!("address = \"{address}\"\nserver_id = \"0a{drained:02x}\""),
        "address = \"10.2.0.99\"\nserver_id = \"0aff\"",
    );
    ensure!(without != all, "{all}");
    daemon.reload(without)?;
    ensure!(scene.n_lost_by_moving(&others)? == 0, "{}", daemon.log());
    daemon.reload(all)?;
    ensure!(scene.n_lost_by_moving(&others)? == 0, "{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn by_full_nat_a_connection_stays_with_its_server_wherever_the_client_goes() -> Result<()> {
    let scene = Scene::behind_full_nat(4)?;
    let mut daemon = scene.daemon_by_full_nat("config_ids = [2]")?;
    let clients = scene.connect(N_CONNECTIONS)?;
    for _ in 0..3 {
        ensure!(scene.n_lost_by_moving(&clients)? == 0, "{}", daemon.log());
    }
    let builder = daemon.builder();
    daemon.kill();
    ensure!(scene.n_lost_by_moving(&clients)? == 0);
    let daemon = builder.start()?;
    ensure!(scene.n_lost_by_moving(&clients)? == 0, "{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn which_server_a_connection_id_names_is_explained() -> Result<()> {
    let scene = Scene::new(2)?;
    let daemon = scene.daemon("config_ids = [2]")?;
    let explain = |id: &str| {
        let vip = format!("{}:{PORT}/udp", vip());
        let told = scene
            .network
            .lb
            .netns
            .command(xlb_tests::paths::xlb()?)
            .args(["explain", "10.1.0.2:5000", &vip, "--connection-id", id])
            .output()?;
        ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
        Ok(String::from_utf8(told.stdout)?)
    };
    for (n, host) in scene.network.backends.iter().enumerate() {
        let told = explain(&format!("430a{n:02x}0102030405060708"))?;
        let [named, backend] =
            ["named", "backend"].map(|title| told.lines().find(|line| line.starts_with(title)).unwrap_or_default());
        ensure!(named.contains(&format!("server 0a{n:02x}: {}", host.v4)), "{told}");
        ensure!(backend.contains(&host.v4.to_string()) && backend.ends_with("its QUIC connection ID names it"), "{told}");
    }
    let nobody = explain("430aff0102030405060708")?;
    ensure!(nobody.contains("server 0aff: nobody's, so that the flow decides"), "{nobody}");
    let other = explain("030a010102030405060708")?;
    ensure!(!other.contains("named"), "a configuration that is not in use\n{other}");
    daemon.stop()
}
