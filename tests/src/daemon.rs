//! The daemon under test, in a namespace.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::{Netns, Process, World, http, paths, until};

/// Where every daemon's API listens: each is alone in its namespace.
const API: &str = "127.0.0.1:9400";
const READY_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How to start a daemon.
#[derive(Clone, Debug)]
pub struct Builder {
    netns: Netns,
    interfaces: Vec<String>,
    mode: String,
    on_exit: String,
    services: String,
    pin: Arc<PinDirectory>,
    api: String,
    api_keys: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    log_filter: String,
}

impl Builder {
    /// The TOML of the `[[service]]` tables, and whatever else but `[xdp]` and `[api]`.
    #[must_use]
    pub fn services(mut self, toml: impl Into<String>) -> Self {
        self.services = toml.into();
        self
    }

    /// `xdp.mode`; `native` unless set, because a test should not pass by way of the slow one.
    #[must_use]
    pub fn mode(mut self, mode: &str) -> Self {
        self.mode = mode.into();
        self
    }

    /// `xdp.on_exit`; `detach` unless set.
    #[must_use]
    pub fn on_exit(mut self, on_exit: &str) -> Self {
        self.on_exit = on_exit.into();
        self
    }

    /// The pin directory of another daemon, to adopt what it left; one of its own unless set.
    #[must_use]
    pub fn adopt(mut self, other: &Daemon) -> Self {
        self.pin = other.builder.pin.clone();
        self
    }

    /// `api.listen`, where two daemons share a namespace.
    #[must_use]
    pub fn api(mut self, listen: &str) -> Self {
        self.api = listen.into();
        self
    }

    /// More keys of `[api]`, as TOML.
    #[must_use]
    pub fn api_keys(mut self, toml: impl Into<String>) -> Self {
        self.api_keys = toml.into();
        self
    }

    /// More arguments after `xlb run --config FILE`.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn environment(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// A program, with arguments, that becomes the daemon: `setpriv`, to start it with fewer rights.
    #[must_use]
    pub fn started_by(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// The daemon's `RUST_LOG`; `info` unless set.
    #[must_use]
    pub fn log_filter(mut self, filter: &str) -> Self {
        self.log_filter = filter.into();
        self
    }

    /// Where its socket and its state will be.
    #[must_use]
    pub fn own_directory(&self) -> &Path {
        &self.pin.own
    }

    /// Writes the configuration, starts `xlb run`, and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready within ten seconds; the error holds its log.
    pub fn start(self) -> Result<Daemon> {
        let mut daemon = self.start_unready()?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// The same without waiting: for daemons that are meant to fail or to be late.
    ///
    /// # Errors
    /// The binary was not built.
    pub fn start_unready(self) -> Result<Daemon> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("xlb.toml");
        std::fs::write(&config, self.config()?)?;
        let xlb = paths::xlb()?;
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = self.netns.command(wrapper);
                command.args(arguments).arg(xlb);
                command
            }
            None => self.netns.command(xlb),
        };
        command.arg("run").arg("--config").arg(&config).args(&self.arguments).env("RUST_LOG", &self.log_filter);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        let process = Process::start("xlb", &mut command)?;
        Ok(Daemon { process, config, builder: self, _directory: directory })
    }

    fn config(&self) -> Result<String> {
        let mut config = String::new();
        writeln!(config, "[xdp]\ninterfaces = {:?}\nmode = {:?}", self.interfaces, self.mode)?;
        writeln!(config, "on_exit = {:?}\npin = {:?}\n", self.on_exit, self.pin.path)?;
        writeln!(config, "[api]\nlisten = {:?}\nsocket = {:?}", self.api, self.pin.own.join("xlb.sock"))?;
        writeln!(config, "state_file = {:?}\n{}\n{}", self.pin.own.join("state.json"), self.api_keys, self.services)?;
        Ok(config)
    }
}

/// Where daemons pin, and what they keep besides. Removed when the last daemon that uses it is gone, and the last builder that
/// could start another.
#[derive(Debug)]
struct PinDirectory {
    path: PathBuf,
    /// For the socket and the state file; the daemon makes it.
    own: PathBuf,
}

impl PinDirectory {
    fn unique() -> Self {
        let path = World::unique_pin_directory();
        let own = tempfile::env::temp_dir().join(path.file_name().unwrap_or_default());
        Self { path, own }
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        let _ = std::fs::remove_dir_all(&self.own);
    }
}

/// A running daemon. Dropping it kills it, as `kill -9` does, and removes its pins.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    config: PathBuf,
    builder: Builder,
    _directory: tempfile::TempDir,
}

impl Daemon {
    /// A daemon for these interfaces of a namespace: set the rest, then [`Builder::start`].
    #[expect(clippy::new_ret_no_self, reason = "it reads as what one wants")]
    pub fn new<S: AsRef<str>>(netns: &Netns, interfaces: &[S]) -> Builder {
        Builder {
            netns: netns.clone(),
            interfaces: interfaces.iter().map(|interface| interface.as_ref().to_owned()).collect(),
            mode: "native".into(),
            on_exit: "detach".into(),
            services: String::new(),
            pin: Arc::new(PinDirectory::unique()),
            api: API.into(),
            api_keys: String::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            log_filter: "info".into(),
        }
    }

    /// Waits for `/health/ready` to answer 200.
    ///
    /// # Errors
    /// The daemon ends, or is not ready within ten seconds; the error holds its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let ready = until(READY_LIMIT, "xlb to be ready", || {
            if !self.process.is_running() {
                return Ok(Some(false));
            }
            Ok((self.get("/health/ready")?.status == 200).then_some(true))
        });
        let trouble = match ready {
            Ok(true) => return Ok(()),
            Ok(false) => "xlb ended".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        bail!("{trouble}; its log:\n{}\nits configuration:\n{}", self.log(), self.config_text())
    }

    /// Asks the daemon's API.
    ///
    /// # Errors
    /// No answer.
    pub fn get(&self, path: &str) -> Result<http::Answer> {
        http::get(&self.builder.netns, &format!("http://{}{path}", self.builder.api))
    }

    /// What `GET /lb/status` answers.
    ///
    /// # Errors
    /// No answer, not 200, or not JSON.
    pub fn status(&self) -> Result<serde_json::Value> {
        let answer = self.get("/lb/status")?;
        ensure!(answer.status == 200, "/lb/status: {answer:?}");
        serde_json::from_str(&answer.body).with_context(|| format!("/lb/status: not JSON:\n{}", answer.body))
    }

    /// What `GET /metrics` answers.
    ///
    /// # Errors
    /// No answer, or not 200.
    pub fn metrics(&self) -> Result<String> {
        let answer = self.get("/metrics")?;
        ensure!(answer.status == 200, "/metrics: {answer:?}");
        Ok(answer.body)
    }

    /// One value from `/metrics`: `series` is the name with its labels, as it stands there.
    ///
    /// # Errors
    /// No such series.
    pub fn metric(&self, series: &str) -> Result<f64> {
        let metrics = self.metrics()?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.with_context(|| format!("no {series} in:\n{metrics}"))
    }

    /// Writes other services into the configuration and sends SIGHUP. When they have taken effect, the caller sees.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn reload(&mut self, services: impl Into<String>) -> Result<()> {
        self.builder.services = services.into();
        std::fs::write(&self.config, self.builder.config()?)?;
        self.process.signal(Signal::SIGHUP)
    }

    /// SIGTERM, and the wait for a clean end.
    ///
    /// # Errors
    /// It does not end within ten seconds, or with another status than 0; the error holds its log.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(STOP_LIMIT)?;
        ensure!(status.success(), "xlb ended with {status}; its log:\n{}", self.log());
        Ok(())
    }

    /// `kill -9`; its pins stay for the next one, see [`Daemon::builder`].
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// How to start another one with the same configuration and pins.
    pub fn builder(&self) -> Builder {
        self.builder.clone()
    }

    pub fn pin(&self) -> &Path {
        &self.builder.pin.path
    }

    /// Where its socket (`xlb.sock`) and its state (`state.json`) are.
    pub fn own_directory(&self) -> &Path {
        &self.builder.pin.own
    }

    /// Runs `xlb VERB... --socket SOCKET`; yields what it printed.
    ///
    /// # Errors
    /// It fails; the error is what it said.
    pub fn xlb(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.builder.netns.command(paths::xlb()?);
        let output = command.args(arguments).arg("--socket").arg(self.own_directory().join("xlb.sock")).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The file that its log goes to.
    pub fn log_file(&self) -> &Path {
        self.process.log_file()
    }

    /// The process, for signals and waiting.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    fn config_text(&self) -> String {
        std::fs::read_to_string(&self.config).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            eprintln!("the log of xlb in {}:\n{}", self.builder.netns.name(), self.log());
        }
    }
}
