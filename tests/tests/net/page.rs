//! The status page, in a browser.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xlb_tests::{Backend, Chromium, Daemon, Network, http};

use super::support::{LIMIT, Service, service, tcp_and_udp_on_both_families, url, vip, wait_serving};

const PAGE: &str = "http://127.0.0.1:9400/lb";
const IS_LIVE: &str = "document.getElementById('link').textContent === 'live'";
/// A browser that shares two cores with all else takes longer to start than what it looks at.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Whether the page shows this text.
fn shows(text: &str) -> String {
    format!("document.body.innerText.includes({text:?})")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_page_shows_every_service_and_a_death_at_once() -> Result<()> {
    let network = Network::dsr(3, &super::support::both_vips())?;
    let mut backends = Backend::start_all(&network, 80, &super::support::both_vips())?;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(tcp_and_udp_on_both_families(&network, "dsr"))
        .start()?;
    let mut browser = Chromium::start(&network.lb.netns, 1280, 900)?;
    browser.open(PAGE)?;
    browser.wait_for(IS_LIVE, START_LIMIT)?;
    let text = browser.text()?;
    for wanted in
        ["web6", "[fd00:200::1:1]:80/tcp", "10.200.1.1:80/udp", "up, 3 of 3", "10.2.0.10:80", "http 200", "33.", "eth0 (native)"]
    {
        ensure!(text.contains(wanted), "no {wanted:?} in:\n{text}");
    }
    // Traffic becomes a rate.
    http::names(&network.client.netns, &url(vip(), 80), 200)?;
    let has_rate = "[...document.querySelectorAll('.backends .number')].some((cell) => parseFloat(cell.textContent) > 0)";
    browser.wait_for(has_rate, LIMIT)?;
    backends[0].kill();
    browser.wait_for(&shows("up, 2 of 3"), LIMIT)?;
    browser.wait_for(&shows("web 10.2.0.10:80: up → down"), LIMIT)?;
    browser.wait_for("/web: \\d+ slots moved/.test(document.body.innerText)", LIMIT)?;
    // Each row has its history.
    let history = "[...document.querySelectorAll('.strip')].some((strip) => /, [1-9] changes?$/.test(strip.getAttribute('aria-label')) \
                   && strip.querySelector('[data-tone=good]') && strip.querySelector('[data-tone=bad]'))";
    browser.wait_for(history, LIMIT)?;
    // All four services lost a backend.
    browser.wait_for("document.title == '(4) xlb'", LIMIT)?;
    ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    drop(browser);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn markup_from_a_backend_is_shown_as_text() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), attack)?;
    let toml = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let (head, rest) = toml.split_once("[service.health]").context("a service with checks")?;
    let (_, backends) = rest.split_once("[[service.backend]]").context("a backend")?;
    let checks = format!("type = \"script\"\ncommand = [\"/bin/cat\", {:?}]\n", script.path());
    let toml = format!("{head}[service.health]\n{checks}[[service.backend]]{backends}");
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(toml).start()?;
    wait_serving(&daemon, "web", 1)?;
    let said = service(&daemon.status()?, "web")?["backends"][0]["check"].to_string();
    ensure!(said.contains("<img src=x onerror="), "{said}: the attack does not reach the page");
    let mut browser = Chromium::start(&network.lb.netns, 1280, 900)?;
    browser.open(PAGE)?;
    browser.wait_for(&shows("<img src=x onerror="), START_LIMIT)?;
    ensure!(
        browser.evaluate("document.querySelectorAll('img').length + document.scripts.length")? == 1,
        "only the page's own script"
    );
    ensure!(browser.evaluate("document.title")? == "xlb");
    ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    drop(browser);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_page_says_when_the_daemon_is_gone_and_goes_on_when_it_is_back() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let toml = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(toml).start()?;
    let mut browser = Chromium::start(&network.lb.netns, 1280, 900)?;
    browser.open(PAGE)?;
    browser.wait_for(IS_LIVE, START_LIMIT)?;
    daemon.kill();
    browser.wait_for(&shows("The daemon does not answer. Below is what it last said"), LIMIT)?;
    ensure!(browser.text()?.contains("10.2.0.10:80"), "what was known stays");
    let daemon = daemon.builder().start()?;
    browser.wait_for(IS_LIVE, LIMIT)?;
    browser.wait_for("document.getElementById('notice').hidden", LIMIT)?;
    drop(browser);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn on_a_phone_nothing_is_wider_than_the_screen() -> Result<()> {
    let network = Network::dsr(3, &super::support::both_vips())?;
    let mut backends = Backend::start_all(&network, 80, &super::support::both_vips())?;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(tcp_and_udp_on_both_families(&network, "dsr"))
        .start()?;
    backends[2].kill();
    wait_serving(&daemon, "web", 2)?;
    let mut browser = Chromium::start(&network.lb.netns, 390, 844)?;
    browser.open(PAGE)?;
    browser.wait_for(IS_LIVE, START_LIMIT)?;
    let width = browser.evaluate("document.documentElement.scrollWidth")?;
    ensure!(width == 390, "{width} pixels");
    drop(browser);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn who_was_drained_is_shown_so_and_is_no_trouble() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let toml = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(toml).start()?;
    let mut browser = Chromium::start(&network.lb.netns, 1280, 900)?;
    browser.open(PAGE)?;
    browser.wait_for(IS_LIVE, START_LIMIT)?;
    daemon.xlb(&["drain", "web", "10.2.0.10"])?;
    browser.wait_for(&shows("draining"), LIMIT)?;
    browser.wait_for(&shows("web 10.2.0.10:80: drains, by root"), LIMIT)?;
    ensure!(browser.evaluate("document.title")? == "xlb", "nothing needs attention");
    daemon.xlb(&["maintenance", "web", "on"])?;
    browser.wait_for(&shows("web is down: in maintenance"), LIMIT)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn who_has_the_token_drains_and_weighs_from_the_page_and_nobody_else() -> Result<()> {
    const TOKEN: &str = "a-token-of-more-than-16-characters";
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let directory = tempfile::tempdir()?;
    let token = directory.path().join("token");
    std::fs::write(&token, TOKEN)?;
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600))?;
    let toml = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(toml)
        .api_keys(format!("token_file = {token:?}\n"))
        .start()?;
    wait_serving(&daemon, "web", 2)?;
    let mut browser = Chromium::start(&network.lb.netns, 1280, 900)?;
    browser.open(PAGE)?;
    browser.wait_for(IS_LIVE, START_LIMIT)?;
    let can_change = "getComputedStyle(document.querySelector('.change')).display !== 'none'";
    ensure!(browser.evaluate(can_change)? == false, "without a token there is nothing to click");
    let click = |browser: &mut Chromium, label: &str| {
        browser.evaluate(&format!("document.querySelector('[aria-label=\"{label}\"]').click()")).map(drop)
    };
    let unlock = |browser: &mut Chromium, token: &str| -> Result<()> {
        browser.evaluate("document.getElementById('changes').click()")?;
        browser.evaluate(&format!(
            "document.getElementById('token').value = {token:?}; document.getElementById('token-form').requestSubmit()"
        ))?;
        browser.wait_for(can_change, LIMIT)
    };
    unlock(&mut browser, TOKEN)?;
    click(&mut browser, "Drain 10.2.0.10:80 of web")?;
    browser.wait_for(&shows("draining"), LIMIT)?;
    browser.wait_for(&shows("web 10.2.0.10:80: drains, by token, from 127.0.0.1"), LIMIT)?;
    ensure!(service(&daemon.status()?, "web")?["backends"][0]["set"]["admin"]["value"]["drain"].is_object());
    click(&mut browser, "Enable 10.2.0.10:80 of web")?;
    wait_serving(&daemon, "web", 2)?;
    // As somebody types it: what is not, the next status overwrites.
    let field = "const field = document.querySelector('[aria-label=\"Weight of 10.2.0.11:80 of web\"]')";
    browser.evaluate(&format!("{{ {field}; field.value = 7; field.dispatchEvent(new Event('input')); }}"))?;
    click(&mut browser, "Set weight of 10.2.0.11:80 of web")?;
    browser.wait_for(&shows("weight 7, was 1"), LIMIT)?;
    ensure!(service(&daemon.status()?, "web")?["backends"][1]["weight"] == 7);
    let width = browser.evaluate("document.documentElement.scrollWidth")?;
    ensure!(width == 1280, "{width} pixels");
    ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    // On a phone too.
    browser.resize(390, 844)?;
    browser.wait_for("document.documentElement.scrollWidth === 390", LIMIT)?;
    browser.evaluate("document.getElementById('changes').click()")?;
    ensure!(browser.evaluate(can_change)? == false);
    // The wrong one is refused, with the reason, and forgotten.
    unlock(&mut browser, "another-token-of-more-than-16")?;
    click(&mut browser, "Drain 10.2.0.10:80 of web")?;
    browser.wait_for(&shows("Not done: this is not the token"), LIMIT)?;
    ensure!(browser.evaluate(can_change)? == false);
    ensure!(service(&daemon.status()?, "web")?["backends"][0]["set"]["admin"].is_null());
    drop(browser);
    daemon.stop()
}
