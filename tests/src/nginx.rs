//! nginx as a real backend.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{Certificate, Netns, Process, until};

const START_LIMIT: Duration = Duration::from_secs(5);
const BULK_LEN: usize = 1 << 20;

/// A running nginx of one process. Dropping it kills it.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    _directory: tempfile::TempDir,
}

impl Nginx {
    /// Starts nginx on `listen`, answering `name` at any path, `ok` at `/health`, and a megabyte at `/bulk`. Returns when it listens.
    ///
    /// # Errors
    /// nginx is not installed, or an address is not there or taken.
    pub fn start(netns: &Netns, name: &str, listen: &[SocketAddr]) -> Result<Self> {
        Self::start_server(netns, name, listen, "", "")
    }

    /// The same over TLS.
    ///
    /// # Errors
    /// As there.
    pub fn start_tls(netns: &Netns, name: &str, listen: &[SocketAddr], certificate: &Certificate) -> Result<Self> {
        let (chain, key) = (certificate.chain.display(), certificate.key.display());
        Self::start_server(netns, name, listen, "ssl", &format!("ssl_certificate {chain}; ssl_certificate_key {key};"))
    }

    fn start_server(netns: &Netns, name: &str, listen: &[SocketAddr], listen_option: &str, server_lines: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let listen_lines: String =
            listen.iter().map(|address| format!("listen {address} backlog=4096 {listen_option}; ")).collect();
        let at = directory.path().display();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr warn;
             events {{ worker_connections 8192; }}
             http {{
                 access_log off; tcp_nodelay on; keepalive_requests 1000000; default_type text/plain;
                 client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;
                 uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
                 server {{
                     {listen_lines}
                     {server_lines}
                     location = /bulk {{ root {at}; }}
                     location = /health {{ return 200 \"ok\\n\"; }}
                     location / {{ return 200 \"{name}\\n\"; }}
                 }}
             }}\n"
        );
        std::fs::write(directory.path().join("bulk"), vec![b'x'; BULK_LEN])?;
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config)?;
        let mut process =
            Process::start(format!("nginx {name}"), netns.command("nginx").args(["-e", "stderr", "-c"]).arg(&file))?;
        let is_listening = |address: &SocketAddr| {
            until(START_LIMIT, "nginx to listen", || {
                let is_open = netns.enter(|| crate::http::connect(*address, None, START_LIMIT).map(drop)).is_ok();
                anyhow::ensure!(is_open || process.is_running(), "it ended");
                Ok(is_open.then_some(()))
            })
        };
        match listen.iter().try_for_each(is_listening) {
            Ok(()) => Ok(Self { process, _directory: directory }),
            Err(error) => Err(error.context(process.log())),
        }
    }

    /// Ends it as an operator does: no new connections, those that are open are finished.
    ///
    /// # Errors
    /// It is gone.
    pub fn quit(&self) -> Result<()> {
        self.process.signal(Signal::SIGQUIT)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
