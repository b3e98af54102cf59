//! A disk that is full: what was set at runtime and what was changed by whom cannot be written.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{Backend, Connections, Daemon, Network, http, until};

use super::support::{LIMIT, Service, vip, wait_serving};

const TOKEN: &str = "a-token-of-more-than-16-characters";

struct Scene {
    network: Network,
    _backends: Vec<Backend>,
    daemon: Daemon,
    /// State and audit log, on a disk of 64 KiB that is the daemon's alone.
    disk: PathBuf,
    _token: tempfile::NamedTempFile,
}

impl Scene {
    fn new() -> Result<Self> {
        let network = Network::dsr(2, &[vip()])?;
        let backends = Backend::start_all(&network, 80, &[vip()])?;
        let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
        let token = tempfile::NamedTempFile::new()?;
        std::fs::write(token.path(), TOKEN)?;
        let builder = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services);
        let own = builder.own_directory().to_owned();
        let keys = format!("token_file = {:?}\naudit_file = {:?}\n", token.path(), own.join("audit.jsonl"));
        let script = format!("mkdir -p {own:?} && mount -t tmpfs -o size=64k tmpfs {own:?} && exec \"$0\" \"$@\"");
        let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script];
        let daemon = builder.api_keys(keys).started_by(&wrapper).start()?;
        wait_serving(&daemon, "web", 2)?;
        let within = PathBuf::from(format!("/proc/{}/root", daemon.id()));
        let disk = within.join(own.strip_prefix("/")?);
        Ok(Self { network, _backends: backends, daemon, disk, _token: token })
    }

    /// Takes all that is left of the disk, but for some bytes at the ends of files.
    fn fill(&self) -> Result<()> {
        let filled = std::fs::write(self.disk.join("filling"), vec![0; 1 << 20]);
        ensure!(filled.is_err(), "it is not full");
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.disk.join("filling"))?)
    }

    fn weight(&self, weight: u16) -> Result<http::Answer> {
        let authorization = format!("Bearer {TOKEN}");
        let url = "http://127.0.0.1:9400/api/v1/services/web/backends/10.2.0.10/weight";
        let body = format!("{{\"weight\": {weight}}}");
        http::send(&self.network.lb.netns, "PUT", url, &[("Authorization", &authorization)], &body)
    }

    fn trouble(&self) -> Result<Value> {
        Ok(self.daemon.status()?["runtime"]["trouble"].clone())
    }

    fn n_lines(&self, text: &str) -> usize {
        self.daemon.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Processor time that the daemon has used (proc(5), fields 14 and 15, in hundredths of a second).
    fn used(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.daemon.id()))?;
        let fields = stat.rsplit(") ").next().context("no fields")?.split(' ').skip(11).take(2);
        let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap_or_default()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_change_that_cannot_be_kept_is_not_made_and_nothing_of_it_stays_once_there_is_room() -> Result<()> {
    let scene = Scene::new()?;
    let client = &scene.network.client.netns;
    let connections = Connections::open(client, (vip(), 80).into(), 50, Duration::from_millis(20), Duration::from_secs(2))?;
    ensure!(scene.weight(2)?.status == 200);
    scene.fill()?;
    for weight in 3..10 {
        let answer = scene.weight(weight)?;
        ensure!(answer.status >= 500 && answer.body.contains("No space left"), "{answer:?}");
    }
    ensure!(scene.trouble()?.as_str().is_some_and(|trouble| trouble.contains("No space left")), "{}", scene.trouble()?);
    ensure!(scene.n_lines("what was set at runtime cannot be kept") == 1, "once:\n{}", scene.daemon.log());
    ensure!(scene.daemon.metric("xlb_runtime_kept")? == 0.0);
    scene.make_room()?;
    until(Duration::from_secs(30), "it to be kept again", || Ok(scene.trouble()?.is_null().then_some(())))
        .with_context(|| scene.daemon.log())?;
    ensure!(scene.n_lines("what is set at runtime is kept again") == 1, "{}", scene.daemon.log());
    ensure!(scene.daemon.metric("xlb_runtime_kept")? == 1.0);
    let state: Value = serde_json::from_str(&std::fs::read_to_string(scene.disk.join("state.json"))?)?;
    let kept = &state["services"]["web"]["backends"]["10.2.0.10:80"]["weight"]["value"];
    ensure!(*kept == 2, "{state:#}");
    ensure!(scene.weight(4)?.status == 200);
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", scene.daemon.log());
    scene.daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_state_file_that_cannot_be_written_costs_no_processor_time() -> Result<()> {
    let scene = Scene::new()?;
    scene.fill()?;
    ensure!(scene.weight(3)?.status >= 500);
    // Beyond the first time that it is tried again, after ten seconds.
    let begun = std::time::Instant::now();
    let used = scene.used()?;
    until(Duration::from_secs(20), "twelve seconds", || Ok((begun.elapsed() > Duration::from_secs(12)).then_some(())))?;
    let share = (scene.used()? - used).as_secs_f64() / begun.elapsed().as_secs_f64();
    ensure!(share < 0.5, "{:.0}% of a processor\n{}", share * 100.0, scene.daemon.log());
    ensure!(scene.daemon.get("/health/live")?.status == 200);
    scene.daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn lines_of_the_audit_log_that_do_not_fit_are_counted_and_spoil_no_other() -> Result<()> {
    let scene = Scene::new()?;
    ensure!(scene.weight(2)?.status == 200);
    scene.fill()?;
    let lost = || scene.daemon.metric("xlb_audit_lines_lost_total");
    until(LIMIT, "the audit log to be full", || {
        scene.weight(3)?;
        Ok((lost()? > 2.0).then_some(()))
    })?;
    ensure!(scene.n_lines("the audit log cannot be written") == 1, "once:\n{}", scene.daemon.log());
    scene.make_room()?;
    ensure!(scene.weight(5)?.status == 200);
    until(LIMIT, "the audit log to be written again", || Ok((scene.n_lines("can be written again") == 1).then_some(())))?;
    let audit = std::fs::read_to_string(scene.disk.join("audit.jsonl"))?;
    let lines: Vec<Result<Value, _>> = audit.lines().map(serde_json::from_str).collect();
    let n_torn = lines.iter().filter(|line| line.is_err()).count();
    let last = lines.last().and_then(|line| line.as_ref().ok()).with_context(|| audit.clone())?;
    ensure!(n_torn <= 1 && last["verdict"] == "done" && last["what"]["weight"] == 5, "{n_torn} torn, then {last:#}");
    scene.daemon.stop()
}
