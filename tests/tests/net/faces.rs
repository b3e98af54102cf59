//! Metrics, status and health, as others read them.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;
use xlb_tests::{Backend, Daemon, Network, http, paths};

use super::support::{counters_sum, service, tcp_and_udp_on_both_families, url, vip};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn all_faces_tell_the_same() -> Result<()> {
    let network = Network::nat(2)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(tcp_and_udp_on_both_families(&network, "nat"))
        .start()?;
    http::names(&network.client.netns, &url(vip(), 80), 50)?;
    let status = daemon.status()?;
    counters_sum(&status)?;
    let web = service(&status, "web")?;
    ensure!(web["connections"] == 50 && web["vip"] == "10.200.1.1" && web["port"] == 80 && web["protocol"] == "tcp", "{web:#}");
    let backends: Vec<&Value> = web["backends"].as_array().into_iter().flatten().collect();
    let sum = |key: &str| backends.iter().filter_map(|backend| backend[key].as_u64()).sum::<u64>();
    for key in ["packets", "bytes", "connections"] {
        ensure!(web[key].as_u64() == Some(sum(key)) && sum(key) > 0, "{key}: {web:#}");
    }
    ensure!(daemon.metric("xlb_service_connections_total{service=\"web\"}")? == 50.0);
    let up = format!("xlb_backend_up{{service=\"web\",backend=\"{}:80\"}}", network.backends[0].v4);
    ensure!(daemon.metric(&up)? == 1.0);
    for path in ["/health", "/health/live", "/health/ready"] {
        ensure!(daemon.get(path)?.status == 200, "{path}");
    }
    let run = |arguments: &[&str]| -> Result<String> {
        let mut command: Command = network.lb.netns.command(paths::xlb()?);
        let output = command.arg("status").args(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let json: Value = serde_json::from_str(&run(&["--json"])?)?;
    ensure!(service(&json, "web")?["connections"] == 50);
    let top = network.lb.netns.command(paths::xlb()?).args(["top", "--once"]).output()?;
    let picture = String::from_utf8(top.stdout)?;
    for wanted in ["ready, on ", "client (native)", "8 of 8 backends serve", "web 10.200.1.1:80/tcp", "http 200"] {
        ensure!(picture.contains(wanted), "no {wanted:?} in:\n{picture}{}", String::from_utf8_lossy(&top.stderr));
    }
    // Totals, the header, and four services with two backends each; no keys where nobody can press any.
    ensure!(picture.lines().count() == 6 + 4 * 3 && !picture.contains("q quit"), "{picture}");
    ensure!(picture.lines().all(|line| line.chars().count() <= 80), "wider than 80:\n{picture}");
    let table = run(&[])?;
    for wanted in ["web 10.200.1.1:80/tcp nat by maglev: up", &network.backends[0].v4.to_string(), "received ="] {
        ensure!(table.contains(wanted), "no {wanted:?} in:\n{table}");
    }
    daemon.stop()
}

#[test]
#[ignore = "needs the xlb binary; run by cargo xtask test"]
fn status_without_a_daemon_says_so() -> Result<()> {
    let output = Command::new(paths::xlb()?).args(["status", "--api", "127.0.0.1:1"]).output()?;
    let text = String::from_utf8(output.stderr)?;
    ensure!(!output.status.success() && text.contains("no daemon answers on 127.0.0.1:1"), "{text}");
    Ok(())
}
