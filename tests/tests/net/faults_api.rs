//! Readers of the API that never read, by the hundred, while traffic flows and an operator works.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xlb_tests::{Backend, Connections, Daemon, Network, http, until};

use super::support::{Service, vip, wait_serving};

/// Longer than it takes the daemon to let go of who does not take what is sent.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root: makes network namespaces"]
fn readers_that_take_nothing_are_let_go_and_keep_out_nobody_for_long() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    // The crowd takes the machine's time too: who is slow then is not down.
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let services = services.replace("= \"200ms\"", "= \"2s\"");
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    wait_serving(&daemon, "web", 2)?;
    let client = &network.client.netns;
    let connections = Connections::open(client, (vip(), 80).into(), 50, Duration::from_millis(20), Duration::from_secs(5))?;
    for request in ["GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "GET /lb HTTP/1.1\r\nHost: x\r\n\r\n".repeat(40)]
    {
        // More than there are places, with as little room for answers as the kernel gives.
        let crowd: Vec<TcpStream> = network.lb.netns.enter(|| {
            let one = || -> Result<TcpStream> {
                let mut stream = http::connect("127.0.0.1:9400".parse()?, None, Duration::from_secs(2))?;
                socket2::SockRef::from(&stream).set_recv_buffer_size(1)?;
                stream.write_all(request.as_bytes())?;
                Ok(stream)
            };
            (0..600).map(|_| one()).collect()
        })?;
        // The socket has places of its own.
        let told = daemon.xlb(&["weight", "web", "10.2.0.10", "2"])?;
        ensure!(told.contains("web"), "{told}");
        daemon.xlb(&["reset"])?;
        until(RECOVERY_LIMIT, "the port to have room again", || Ok((daemon.get("/health/live")?.status == 200).then_some(())))
            .with_context(|| daemon.log())?;
        drop(crowd);
    }
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    ensure!(daemon.log().lines().count() < 100, "{}", daemon.log());
    daemon.stop()
}
