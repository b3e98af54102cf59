//! Who may make changes: on the socket whom the kernel names, over TCP who has the token.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use axum::http::{HeaderMap, StatusCode, header};
use rustix::process::getuid;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tracing::warn;

use crate::config;

/// Fewer characters could be guessed.
const TOKEN_LEN_MIN: usize = 16;
const TOKEN_FILE_LEN_MAX: u64 = 4096;

/// Who is at the other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    Unix { uid: u32, pid: Option<i32> },
    Tcp(SocketAddr),
}

impl Peer {
    /// Where the request came from, for the audit log.
    pub fn origin(&self) -> String {
        match self {
            Self::Unix { uid, pid: Some(pid) } => format!("socket, uid {uid}, pid {pid}"),
            Self::Unix { uid, pid: None } => format!("socket, uid {uid}"),
            Self::Tcp(address) => address.to_string(),
        }
    }
}

/// Why a change is not taken from somebody.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forbidden {
    pub code: StatusCode,
    pub reason: String,
}

/// Who may make changes.
#[derive(Clone, Debug)]
pub struct Policy {
    own_uid: u32,
    /// The socket's group is let in by its permissions, which the kernel has checked, supplementary groups and all.
    has_group: bool,
    token_file: Option<PathBuf>,
    socket: PathBuf,
}

impl Policy {
    /// As configured.
    ///
    /// # Errors
    /// There is to be a token, and it cannot be used.
    pub fn new(config: &config::Api) -> Result<Self> {
        if let Some(path) = &config.token_file {
            token(path).map_err(|reason| anyhow::anyhow!("api.token_file: {reason}"))?;
            if others_than_owner_may_read(path) {
                warn!("{}: others than its owner can read the token; chmod 600 it", path.display());
            }
            if !config.listen.ip().is_loopback() && config.tls.is_none() {
                warn!(
                    listen = %config.listen,
                    "the token crosses the network in the clear; set api.tls_certificate and tls_key, or listen on 127.0.0.1"
                );
            }
        }
        let (has_group, token_file) = (config.socket_gid.is_some(), config.token_file.clone());
        Ok(Self { own_uid: getuid().as_raw(), has_group, token_file, socket: config.socket.clone() })
    }

    /// Who makes a change, if he may.
    ///
    /// # Errors
    /// He may not, or it cannot be told.
    pub fn admit(&self, peer: &Peer, headers: &HeaderMap) -> Result<String, Forbidden> {
        match peer {
            Peer::Unix { uid: 0, .. } => Ok("root".to_owned()),
            Peer::Unix { uid, .. } if *uid == self.own_uid || self.has_group => Ok(format!("uid {uid}")),
            Peer::Unix { uid, .. } => Err(forbidden(format!(
                "uid {uid} may not make changes: only root and the daemon's own user, or set api.socket_gid"
            ))),
            Peer::Tcp(address) => self.admit_by_token(headers).map(|()| format!("token, from {}", address.ip())),
        }
    }

    fn admit_by_token(&self, headers: &HeaderMap) -> Result<(), Forbidden> {
        let Some(path) = &self.token_file else {
            let socket = self.socket.display();
            return Err(forbidden(format!("no changes over TCP: use the socket {socket}, or set api.token_file")));
        };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let Some(given) = given else {
            return Err(forbidden("a change over TCP takes the header `Authorization: Bearer TOKEN`".to_owned()));
        };
        let token = token(path).map_err(|reason| Forbidden { code: StatusCode::SERVICE_UNAVAILABLE, reason })?;
        // Digests have one length: neither length nor content of the token shows in the time that it takes.
        let is_right = Sha256::digest(given.trim()).ct_eq(&Sha256::digest(&token));
        if is_right.into() { Ok(()) } else { Err(forbidden("this is not the token".to_owned())) }
    }
}

fn forbidden(reason: String) -> Forbidden {
    Forbidden { code: StatusCode::FORBIDDEN, reason }
}

/// Whether more than its owner can read a file.
pub fn others_than_owner_may_read(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.mode() & 0o077 != 0)
}

/// The token, read anew each time: who replaces it in the file need not restart anything.
pub fn token(path: &Path) -> Result<String, String> {
    let read = || -> Result<String> {
        let length = fs::metadata(path)?.len();
        if length > TOKEN_FILE_LEN_MAX {
            bail!("{length} bytes are no token");
        }
        Ok(fs::read_to_string(path)?)
    };
    let text = read().map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    match text.trim() {
        token if token.len() < TOKEN_LEN_MIN => Err(format!(
            "{}: the token has {} characters, and needs {TOKEN_LEN_MIN}: openssl rand -hex 32",
            path.display(),
            token.len()
        )),
        token => Ok(token.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123";

    fn policy(token_file: Option<PathBuf>, has_group: bool) -> Policy {
        Policy { own_uid: 990, has_group, token_file, socket: "/run/xlb/xlb.sock".into() }
    }

    fn bearer(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn on_the_socket_root_and_the_daemons_user_may_and_others_by_its_group() {
        let admit = |uid, has_group| policy(None, has_group).admit(&Peer::Unix { uid, pid: None }, &HeaderMap::new());
        assert_eq!(admit(0, false), Ok("root".into()));
        assert_eq!(admit(990, false), Ok("uid 990".into()));
        assert!(admit(1000, false).is_err_and(|error| error.reason.contains("uid 1000") && error.reason.contains("socket_gid")));
        assert_eq!(admit(1000, true), Ok("uid 1000".into()));
    }

    #[test]
    fn over_tcp_it_takes_the_token_and_nothing_like_it() {
        let path = std::env::temp_dir().join(format!("xlb-token-{}", std::process::id()));
        fs::write(&path, format!("{TOKEN}\n")).unwrap();
        let peer = Peer::Tcp("192.0.2.9:4711".parse().unwrap());
        let admit = |headers: &HeaderMap| policy(Some(path.clone()), false).admit(&peer, headers);
        assert_eq!(admit(&bearer(&format!("Bearer {TOKEN}"))), Ok("token, from 192.0.2.9".into()));
        for wrong in [&TOKEN[1..], &format!("{TOKEN}0"), "", "x", &TOKEN.to_uppercase()] {
            let refused = admit(&bearer(&format!("Bearer {wrong}"))).unwrap_err();
            assert_eq!((refused.code, &*refused.reason), (StatusCode::FORBIDDEN, "this is not the token"), "{wrong}");
        }
        for none in [HeaderMap::new(), bearer(TOKEN), bearer(&format!("Basic {TOKEN}"))] {
            assert!(admit(&none).is_err_and(|error| error.reason.contains("Authorization: Bearer")), "{none:?}");
        }
        // Another takes effect at once, and a short one or none opens nothing.
        fs::write(&path, "fedcba9876543210").unwrap();
        assert!(admit(&bearer(&format!("Bearer {TOKEN}"))).is_err());
        assert!(admit(&bearer("Bearer fedcba9876543210")).is_ok());
        for short in ["", "short\n"] {
            fs::write(&path, short).unwrap();
            let refused = admit(&bearer(&format!("Bearer {}", short.trim()))).unwrap_err();
            assert_eq!(refused.code, StatusCode::SERVICE_UNAVAILABLE);
        }
        fs::remove_file(&path).unwrap();
        assert!(admit(&bearer(&format!("Bearer {TOKEN}"))).is_err_and(|error| error.reason.contains("cannot be read")));
    }

    #[test]
    fn without_a_token_file_nothing_is_taken_over_tcp_and_the_answer_says_what_to_do() {
        let peer = Peer::Tcp("127.0.0.1:4711".parse().unwrap());
        let refused = policy(None, true).admit(&peer, &bearer("Bearer ")).unwrap_err();
        assert!(refused.reason.contains("/run/xlb/xlb.sock") && refused.reason.contains("api.token_file"), "{refused:?}");
    }
}
