//! Where clients come in: TCP, and a Unix socket whose peers the kernel knows. Each connection has limits of its own, and the
//! two doors do not share theirs: whoever crowds the port does not lock the operator out of the socket.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::{Gid, chown};
use rustix::net::sockopt::set_tcp_user_timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use super::audit::Audit;
use super::auth::{Peer, Policy};
use super::tls::Identity;
use crate::config;

/// Connections at once.
const N_TCP: usize = 512;
const N_UNIX: usize = 64;
/// A request's head must have come within this time; so long may a connection wait for its next request, too.
const HEAD_LIMIT: Duration = Duration::from_secs(20);
/// The longest head.
const HEAD_LEN_MAX: usize = 16 << 10;
/// What is sent must be taken within this time, or the connection ends: who stops reading would hold it for ever.
const TAKEN_LIMIT: Duration = Duration::from_secs(20);
/// After a failure to take a connection, as without file descriptors left.
const PAUSE: Duration = Duration::from_secs(1);
const BACKLOG: i32 = 128;

/// Both listeners, bound, and who may change what.
pub struct Doors {
    tcp: TcpListener,
    unix: Option<(UnixListener, SocketFile)>,
    /// `None` speaks plain HTTP on TCP.
    pub identity: Option<Identity>,
    pub policy: Policy,
    pub audit: Audit,
}

/// Removes the socket's file when the daemon ends.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another daemon may have removed it, or the directory is gone.
        let _ = fs::remove_file(&self.0);
    }
}

impl Doors {
    /// Opens both. Without the socket there are no changes at runtime, but balancing can do without: it is only warned of.
    ///
    /// # Errors
    /// The TCP address is taken, the certificate or the token cannot be used, or the audit log cannot be written.
    pub async fn open(config: &config::Api) -> Result<Self> {
        let tcp = TcpListener::bind(config.listen).await.with_context(|| format!("api.listen = {}", config.listen))?;
        let policy = Policy::new(config)?;
        let identity = config.tls.as_ref().map(Identity::open).transpose().context("the API's TLS")?;
        let audit = Audit::start(config.audit_file.clone())?;
        let unix = match open_socket(&config.socket, config.socket_gid).await {
            Ok(listener) => Some((listener, SocketFile(config.socket.clone()))),
            Err(error) => {
                warn!("api.socket = {:?}: {error:#}; nothing can be changed at runtime by it", config.socket);
                None
            }
        };
        info!(listen = %config.listen, tls = identity.is_some(), socket = %config.socket.display(), "serving the API");
        Ok(Self { tcp, unix, identity, policy, audit })
    }

    /// Lets clients in until the process ends. The socket's file goes with what this yields.
    pub fn serve(self, router: &Router) -> Option<SocketFile> {
        let router_tcp = router.clone();
        tokio::spawn(let_in_by_tcp(self.tcp, self.identity, router_tcp));
        let (listener, file) = self.unix?;
        tokio::spawn(let_in_by_socket(listener, router.clone()));
        Some(file)
    }
}

/// Bound aside and moved into place: from its first moment on only those can connect who may.
async fn open_socket(path: &Path, gid: Option<u32>) -> Result<UnixListener> {
    if let Ok(Ok(_)) = timeout(PAUSE, UnixStream::connect(path)).await {
        bail!("another process answers there; give each daemon a socket of its own");
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    // Of one that was killed just there.
    let _ = fs::remove_file(&aside);
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    bind(&socket, &SocketAddrUnix::new(&aside)?).context("it cannot be bound")?;
    let opened = open_to(&aside, gid).and_then(|()| Ok(listen(&socket, BACKLOG)?)).and_then(|()| Ok(fs::rename(&aside, path)?));
    if let Err(error) = opened {
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    Ok(UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?)
}

fn open_to(path: &Path, gid: Option<u32>) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    if let Some(gid) = gid {
        chown(path, None, Some(Gid::from_raw(gid))).with_context(|| {
            format!("it cannot be given to group {gid}; run as root with CAP_CHOWN, or as a member of that group")
        })?;
    }
    Ok(())
}

async fn let_in_by_tcp(listener: TcpListener, identity: Option<Identity>, router: Router) {
    let places = Arc::new(Semaphore::new(N_TCP));
    loop {
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                if let Err(error) = set_tcp_user_timeout(&stream, TAKEN_LIMIT.as_millis() as u32) {
                    debug!(%error, "a connection to the API has no time limit");
                }
                let (identity, router) = (identity.clone(), router.clone());
                tokio::spawn(async move {
                    greet_and_converse(stream, address, identity, router).await;
                    drop(place);
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn let_in_by_socket(listener: UnixListener, router: Router) {
    let places = Arc::new(Semaphore::new(N_UNIX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => match stream.peer_cred() {
                Ok(peer) => {
                    let peer = Peer::Unix { uid: peer.uid(), pid: peer.pid() };
                    let conversation = converse(stream, peer, router.clone());
                    tokio::spawn(async move {
                        conversation.await;
                        drop(place);
                    });
                }
                Err(error) => error!(%error, "a client on the socket is not known to the kernel"),
            },
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &std::io::Error) {
    error!(%error, "a connection to the API cannot be taken");
    sleep(PAUSE).await;
}

async fn greet_and_converse(stream: TcpStream, address: SocketAddr, identity: Option<Identity>, router: Router) {
    let peer = Peer::Tcp(address);
    let Some(identity) = identity else { return converse(stream, peer, router).await };
    match timeout(HEAD_LIMIT, identity.greet(stream)).await {
        Ok(Ok(Some(stream))) => converse(stream, peer, router).await,
        Ok(Ok(None)) => debug!(%address, "a client of the API came without TLS"),
        Ok(Err(error)) => debug!(%address, %error, "a client of the API did not get as far as a request"),
        Err(_) => debug!(%address, "a client of the API began no TLS in time"),
    }
}

async fn converse<S>(stream: S, peer: Peer, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        inner.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_LEN_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        debug!(%error, "a connection to the API has ended");
    }
}
