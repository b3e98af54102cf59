//! Every packet is counted once, and the sums agree.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::paths;

use super::show::{Show, thousands};
use super::stage::Stage;

pub fn act(show: &mut Show, stages: &[&Stage]) -> Result<()> {
    show.title("Every packet in exactly one verdict");
    for stage in stages {
        let status = stage.daemon.status()?;
        let packets = &status["packets"];
        let of = |key: &str| packets[key].as_u64().with_context(|| format!("no count {key}"));
        let (received, forwarded, passed, dropped) = (of("received")?, of("forwarded")?, of("passed")?, of("dropped")?);
        let verdicts: u64 = status["verdicts"].as_object().context("no verdicts")?.values().filter_map(Value::as_u64).sum();
        let text = format!(
            "{} received {} = forwarded {} + passed to the host {} + dropped {}",
            stage.name,
            thousands(received),
            thousands(forwarded),
            thousands(passed),
            thousands(dropped)
        );
        show.claim(received > 0 && received == forwarded + passed + dropped && received == verdicts, &text);
    }
    let stage = stages.first().context("no stage")?;
    show.note(&format!("\n$ xlb status\n{}", table(stage)?));
    Ok(())
}

/// What `xlb status` prints, of its services only `web`.
fn table(stage: &Stage) -> Result<String> {
    let xlb = paths::xlb()?;
    let output = stage.network.lb.netns.command(xlb).arg("status").output().context("xlb status")?;
    ensure!(output.status.success(), "xlb status: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let mut parts = text.trim().split("\n\n");
    let head = parts.next().unwrap_or_default();
    let services: Vec<&str> = parts.collect();
    let web = services.iter().find(|service| service.starts_with("web ")).context("xlb status does not show web")?;
    Ok(format!("{head}\n{web}\n... and {} more services", services.len() - 1))
}
