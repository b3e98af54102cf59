//! The dashboard's queries, and the alert rules, in a real Prometheus that scrapes a real daemon.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{Backend, Daemon, Dnsmasq, Network, Process, http, until};

use super::queries;
use super::support::{LIMIT, VIP, path, read, vip, web};

const DASHBOARD: &str = "config/grafana/xlb.json";
/// Scrapes come each second.
const RANGE: &str = "10s";

/// Titles with the expressions and legends of panels, annotations and variables.
fn queries_of(dashboard: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let panels = list(&dashboard["panels"]).into_iter().flat_map(|panel| {
        let title = text(&panel["title"]);
        list(&panel["targets"])
            .into_iter()
            .map(move |target| (title.clone(), target["expr"].clone(), target["legendFormat"].clone()))
    });
    panels.map(|(title, expr, legend)| (title, format!("{}\n{}", text(&expr), text(&legend)))).collect()
}

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&read(DASHBOARD)?)?)
}

/// As Grafana would, with all of everything chosen.
fn filled_in(expression: &str) -> String {
    let values = [("$__rate_interval", RANGE), ("$__interval", RANGE), ("$job", "xlb"), ("$instance", ".*"), ("$service", ".*")];
    values.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// In a query string.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[test]
fn each_panel_asks_for_what_is_exported() -> Result<()> {
    let dashboard = dashboard()?;
    ensure!(dashboard["schemaVersion"].as_u64() >= Some(38), "Grafana 10 has 38 and above");
    let queries = queries_of(&dashboard);
    ensure!(queries.len() > 30, "{} queries", queries.len());
    for (title, query) in queries {
        ensure!(queries::check(&query).context(title.clone())? > 0, "{title} asks for nothing");
    }
    // Variables and annotations too.
    queries::check(&dashboard["annotations"].to_string().replace("\\\"", "\""))?;
    queries::check(&dashboard["templating"].to_string().replace("\\\"", "\"").replace(", job)", ")"))?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let mut ids: Vec<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    ids.sort_unstable();
    ids.dedup();
    ensure!(ids.len() == panels.len(), "each panel has an id of its own");
    Ok(())
}

struct Prometheus {
    process: Process,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    fn start(network: &Network) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("prometheus.yml");
        let rules = path("config/prometheus/xlb.rules.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [\"{}\"]\nscrape_configs:\n  - job_name: xlb\n    \
             static_configs: [{{targets: [\"127.0.0.1:9400\"]}}]\n",
            rules.display()
        );
        std::fs::write(&config, text)?;
        let mut command = network.lb.netns.command("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg("--web.listen-address=127.0.0.1:9090");
        Ok(Self { process: Process::start("prometheus", &mut command)?, _directory: directory })
    }

    fn ask(&self, network: &Network, path: &str) -> Result<Value> {
        let answer = http::get(&network.lb.netns, &format!("http://127.0.0.1:9090/api/v1/{path}"))?;
        let answer: Value = serde_json::from_str(&answer.body).with_context(|| format!("{path}: {}", answer.body))?;
        ensure!(answer["status"] == "success", "{path}: {answer:#}");
        Ok(answer["data"].clone())
    }

    fn series(&self, network: &Network, expression: &str) -> Result<Vec<Value>> {
        let data = self.ask(network, &format!("query?query={}", escaped(expression)))?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn each_panel_shows_something_and_an_alert_comes_up() -> Result<()> {
    let network = Network::dsr(2, &[vip()?])?;
    let mut backends = Backend::start_all(&network, 80, &[vip()?])?;
    let record = [("api.internal", network.backends[0].v4.into())];
    let dns = Dnsmasq::start(&network.client.netns, network.client.v4.into(), 1, &record)?;
    let found = format!(
        "[[service]]\nname = \"api\"\nvip = \"{VIP}\"\nport = 8080\n[service.dns]\nname = \"api.internal\"\nport = 8080\n\
         resolver = \"{}\"\n",
        dns.address()
    );
    // `web` goes by zones, is limited, and has its clients' handshakes counted; `shop` is by full NAT.
    network.lb.netns.ip(&["addr add 10.2.0.200/24 dev eth0"])?;
    let more = "port = 80\ntrack = true\n[service.zones]\n[service.admission]\npackets = \"100000/s\"\n";
    let web = web(&network).replace("port = 80\n", more);
    let web = ["a", "b"].iter().zip(&network.backends).fold(web, |web, (zone, host)| {
        let address = format!("address = \"{}\"\n", host.v4);
        web.replace(&address, &format!("{address}zone = \"{zone}\"\n"))
    });
    let head = "[node]\nzone = \"a\"\n[fullnat]\naddresses = [\"10.2.0.200\"]\n";
    let shop = format!(
        "[[service]]\nname = \"shop\"\nvip = \"{VIP}\"\nport = 81\nforward = \"fullnat\"\n[service.health]\ntype = \"tcp\"\n\
         [[service.backend]]\naddress = \"{}\"\nport = 80\n",
        network.backends[0].v4
    );
    let services = [head, &web, &shop, &found].concat();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    let mut prometheus = Prometheus::start(&network)?;
    prometheus.process.wait_for_log("Server is ready", LIMIT)?;
    let dashboard = dashboard()?;
    let urls = [format!("http://{VIP}/"), format!("http://{VIP}:81/")];
    let mut waiting = queries_of(&dashboard);
    let shown = until(LIMIT, "every panel to show something", || {
        urls.iter().try_for_each(|url| http::names(&network.client.netns, url, 5).map(drop))?;
        let mut empty = Vec::new();
        for (title, query) in waiting.drain(..) {
            let expression = query.lines().next().unwrap_or_default();
            if prometheus.series(&network, &filled_in(expression))?.is_empty() {
                empty.push((title, query));
            }
        }
        waiting = empty;
        Ok(waiting.is_empty().then_some(()))
    });
    shown.with_context(|| format!("nothing comes of {waiting:#?}"))?;
    for annotation in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
        prometheus.series(&network, &filled_in(annotation["expr"].as_str().context("an expression")?))?;
    }
    let groups = prometheus.ask(&network, "rules")?;
    let rules =
        groups["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array().into_iter().flatten());
    let ill: Vec<&Value> = rules.filter(|rule| rule["health"] != "ok").collect();
    ensure!(ill.is_empty(), "{ill:#?}");
    backends.iter_mut().for_each(Backend::kill);
    until(LIMIT, "an alert that web has no backends", || {
        let alerts = prometheus.ask(&network, "alerts")?;
        let mut alerts = alerts["alerts"].as_array().into_iter().flatten();
        let is_it =
            |alert: &&Value| alert["labels"]["alertname"] == "XlbServiceWithoutBackends" && alert["labels"]["service"] == "web";
        Ok(alerts.find(is_it).map(|_| ()))
    })?;
    daemon.stop()
}
