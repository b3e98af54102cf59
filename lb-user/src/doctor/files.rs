//! Files, sockets and names that the configuration refers to. As the user who asks, which is told by `rights`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, access};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::Check;
use crate::api;
use crate::config::{Api, Config, Service};
use crate::discovery::{self, Kind, Place, Source, Watcher};
use crate::error::chain;
use crate::health::{Probe, Tls, Trust};
use crate::{daemon, runtime};

/// A name server has this long, tries again and all.
const LIMIT: Duration = Duration::from_secs(11);
/// Often enough to see a failure.
const LOOK: Duration = Duration::from_millis(20);

pub async fn examine(config: &Config, checks: &mut Vec<Check>) {
    api(&config.api, checks);
    if let Some(path) = &config.xdp.secret_file {
        checks.push(match daemon::secret::read(path) {
            Ok(_) => private(format!("secret {}", path.display()), path),
            Err(error) => {
                Check::problem(format!("secret {}", path.display()), format!("{error:#}"), "the daemon does not start without it")
            }
        });
    }
    of_checks(&config.services, checks);
    sources(&config.services, checks).await;
}

fn api(api: &Api, checks: &mut Vec<Check>) {
    checks.push(place("api.socket", &api.socket, "nothing can be changed at runtime by it"));
    checks.push(match runtime::load(&api.state_file) {
        Ok(_) => place("api.state_file", &api.state_file, "nothing can be changed at runtime"),
        Err(error) => Check::warning(
            "api.state_file",
            format!("{}; what was set at runtime is lost with the next restart", chain(&error)),
            format!("move it away: mv {0} {0}.broken", api.state_file.display()),
        ),
    });
    if let Some(path) = &api.audit_file {
        checks.push(place("api.audit_file", path, "the daemon does not start without it"));
    }
    if let Some(path) = &api.token_file {
        checks.push(match api::token(path) {
            Ok(_) => private("api.token_file".to_owned(), path),
            Err(reason) => Check::problem("api.token_file", reason, format!("openssl rand -hex 32 > {}", path.display())),
        });
    }
    if let Some(files) = &api.tls {
        checks.push(match api::Identity::open(files) {
            Ok(_) if api::others_may_read(&files.key) => Check::warning(
                "api.tls_key",
                format!("{}: anybody on this machine can read it", files.key.display()),
                format!("chmod 640 {}", files.key.display()),
            ),
            Ok(_) => Check::ok("api.tls_key", "is the certificate's"),
            Err(error) => Check::problem("api.tls_certificate", chain(&error), "the daemon does not start without it"),
        });
        checks.extend(
            api::valid_for(&files.certificate, SystemTime::now()).ok().flatten().map(|left| expiry(&files.certificate, left)),
        );
    }
}

fn expiry(certificate: &Path, left: Duration) -> Check {
    let days = api::days(left);
    let mend = format!("renew {}, then: xlb reload", certificate.display());
    match left {
        Duration::ZERO => Check::problem("api.tls_certificate", "is not valid any more; clients refuse it", mend),
        left if left < api::VALID_MIN => Check::warning("api.tls_certificate", format!("is valid for {days} more"), mend),
        _ => Check::ok("api.tls_certificate", format!("is valid for {days} more")),
    }
}

/// Whether this user can make a file there; the daemon makes missing directories.
fn place(key: &str, path: &Path, consequence: &str) -> Check {
    let parents = path.ancestors().skip(1);
    let Some(there) = parents.into_iter().find(|directory| directory.exists()) else {
        return Check::ok(key, path.display().to_string());
    };
    let mend = || format!("ls -ld {}", there.display());
    match access(there, Access::WRITE_OK | Access::EXEC_OK) {
        _ if !there.is_dir() => Check::warning(key, format!("{} is no directory; {consequence}", there.display()), mend()),
        Ok(()) => Check::ok(key, format!("{} can be written", path.display())),
        Err(errno) => Check::warning(key, format!("{}: {errno}; {consequence}", there.display()), mend()),
    }
}

/// What nobody else should be able to read.
fn private(subject: String, path: &Path) -> Check {
    match api::others_than_owner_may_read(path) {
        false => Check::ok(subject, format!("{} can be read, and not by others", path.display())),
        true => {
            let finding = format!("{}: others than its owner can read it", path.display());
            Check::warning(subject, finding, format!("chmod 600 {}", path.display()))
        }
    }
}

/// What a check of a service needs to be able to ask at all.
fn of_checks(services: &[Service], checks: &mut Vec<Check>) {
    let mut known = BTreeSet::new();
    for probe in services.iter().flat_map(|service| &service.health.list).map(|check| &check.probe) {
        for (path, wanted) in needs(probe) {
            if known.insert(path.clone()) {
                checks.push(usable(&path, wanted));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Wanted {
    Program,
    Readable,
}

fn needs(probe: &Probe) -> Vec<(PathBuf, Wanted)> {
    let path = match probe {
        Probe::Script(script) => return vec![(script.program.clone().into(), Wanted::Program)],
        Probe::Http(http) => match &http.tls {
            Some(Tls { trust: Trust::File(path), .. }) => Some(path.clone()),
            _ => None,
        },
        Probe::Redis(redis) => redis.password_file.clone(),
        Probe::Postgres(postgres) => postgres.login.as_ref().and_then(|login| login.password_file.clone()),
        _ => None,
    };
    path.map(|path| (path, Wanted::Readable)).into_iter().collect()
}

fn usable(path: &Path, wanted: Wanted) -> Check {
    let subject = format!("health checks' {}", path.display());
    let (right, finding, mend) = match wanted {
        Wanted::Program => (Access::EXEC_OK, "can be run", format!("chmod +x {}", path.display())),
        Wanted::Readable => (Access::READ_OK, "can be read", format!("ls -l {}", path.display())),
    };
    match access(path, right) {
        Ok(()) if path.is_file() => Check::ok(subject, finding),
        Ok(()) => Check::problem(subject, "is not a file; backends that it is to check never come up", mend),
        Err(errno) => Check::problem(subject, format!("{errno}; backends that it is to check never come up"), mend),
    }
}

/// Asks every source as the daemon does, all at once.
async fn sources(services: &[Service], checks: &mut Vec<Check>) {
    let deadline = Instant::now() + LIMIT;
    let asked: Vec<_> = services
        .iter()
        .flat_map(|service| service.sources().map(move |source| (service, source)))
        .map(|(service, source)| {
            let (sender, answers) = mpsc::channel(1);
            let watcher = discovery::spawn(service.name.clone(), source.clone(), Place::of(service), sender);
            (service, source, watcher, answers)
        })
        .collect();
    for (service, source, watcher, mut answers) in asked {
        let subject = format!("{} {} {}", service.name, source.kind(), source.name());
        let answered = tokio::select! {
            answer = timeout_at(deadline, discovery::next_set(&mut answers)) => answer.ok().flatten().map(|backends| backends.len()),
            () = failed(&watcher) => None,
        };
        checks.push(match answered {
            Some(n) => Check::ok(subject, format!("names {n} backends")),
            None => silent(subject, service, &source, watcher.status().last_error),
        });
    }
}

/// As soon as the source has been asked without success.
async fn failed(watcher: &Watcher) {
    while watcher.status().last_error.is_none() {
        sleep(LOOK).await;
    }
}

fn silent(subject: String, service: &Service, source: &Source, error: Option<String>) -> Check {
    let mend = match source {
        Source::Dns(dns) => {
            let at = dns.resolver.map(|server| format!(" @{} -p {}", server.ip(), server.port())).unwrap_or_default();
            format!("dig{at} {}", dns.name)
        }
        Source::File(file) => format!("ls -l {}", file.path.display()),
        Source::Docker(docker) => format!("docker -H unix://{} ps", docker.socket.display()),
    };
    let finding = error.unwrap_or_else(|| format!("no answer within {} s", LIMIT.as_secs()));
    // Whoever else names backends has the service go on.
    let alone = service.backends.is_empty()
        && [Kind::Dns, Kind::File, Kind::Docker].iter().filter(|kind| service.has_source(**kind)).count() == 1;
    match alone {
        true => Check::problem(subject, format!("{finding}; the service has no other backends"), mend),
        false => Check::warning(subject, finding, mend),
    }
}
