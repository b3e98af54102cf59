//! TLS on the API's TCP door, asked by curl and by xlb itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xlb_tests::{Authority, Backend, Daemon, Netns, Network, paths, until};

use super::support::{LIMIT, Service, vip};

const API: &str = "127.0.0.1:9400";
const TOKEN: &str = "0123456789abcdef0123";

struct Scene {
    network: Network,
    _backends: Vec<Backend>,
    authority: Authority,
    files: tempfile::TempDir,
}

impl Scene {
    fn new() -> Result<Self> {
        let network = Network::dsr(1, &[vip()])?;
        let _backends = Backend::start_all(&network, 80, &[vip()])?;
        let scene = Self { network, _backends, authority: Authority::new()?, files: tempfile::tempdir()? };
        fs::write(scene.file("token"), TOKEN)?;
        fs::set_permissions(scene.file("token"), fs::Permissions::from_mode(0o600))?;
        scene.put("first")?;
        Ok(scene)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A certificate of another name, and its key, where the daemon looks.
    fn put(&self, name: &str) -> Result<()> {
        let signed = self.authority.sign(name, &format!("DNS:{name}.example.org, IP:127.0.0.1"))?;
        fs::copy(signed.chain, self.file("api.pem"))?;
        fs::copy(signed.key, self.file("api.key"))?;
        Ok(fs::set_permissions(self.file("api.key"), fs::Permissions::from_mode(0o600))?)
    }

    fn daemon(&self) -> Result<Daemon> {
        let keys = format!(
            "tls_certificate = {:?}\ntls_key = {:?}\ntoken_file = {:?}\n",
            self.file("api.pem"),
            self.file("api.key"),
            self.file("token")
        );
        let web = Service::new("web", vip(), 80).backends(&self.network.backends, true).toml();
        Daemon::new(&self.network.lb.netns, &self.network.lb_interfaces()).api_keys(keys).services(web).start_unready()
    }

    fn lb(&self) -> &Netns {
        &self.network.lb.netns
    }

    /// What curl prints, or else what it complains of.
    fn curl(&self, arguments: &[&str]) -> Result<String, String> {
        let run = || {
            let mut command = self.lb().command("curl");
            anyhow::Ok(command.args(["--silent", "--show-error", "--max-time", "5"]).args(arguments).output()?)
        };
        let output = run().map_err(|error| format!("{error:#}"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn trusting(&self, path: &str) -> Result<String, String> {
        let ca = self.authority.file().display().to_string();
        self.curl(&["--cacert", &ca, &format!("https://{API}{path}")])
    }

    fn wait_ready(&self, daemon: &Daemon) -> Result<()> {
        let ready = || Ok(self.trusting("/health/ready").ok().filter(|answer| answer.contains("true")).map(drop));
        until(LIMIT, "the API to be ready", ready).with_context(|| daemon.log())
    }

    fn xlb(&self, arguments: &[&str], ca: &Path) -> Result<(bool, String)> {
        let mut command = self.lb().command(paths::xlb()?);
        let output = command.args(arguments).args(["--api", &format!("https://{API}"), "--ca-file"]).arg(ca).output()?;
        let said = String::from_utf8([output.stdout, output.stderr].concat())?;
        Ok((output.status.success(), said))
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn who_trusts_the_authority_reads_and_with_the_token_changes() -> Result<()> {
    let scene = Scene::new()?;
    let daemon = scene.daemon()?;
    scene.wait_ready(&daemon)?;
    let (authority, stranger) = (scene.authority.file(), Authority::new()?);
    let (done, said) = scene.xlb(&["status"], &authority)?;
    ensure!(done && said.contains("web"), "{said}");
    let (done, said) = scene.xlb(&["events", "--once"], &authority)?;
    ensure!(done, "{said}");
    let token = scene.file("token").display().to_string();
    let (done, said) = scene.xlb(&["weight", "web", "10.2.0.10", "7", "--token-file", &token], &authority)?;
    ensure!(done && said.contains('7'), "{said}");

    // The token is needed as before.
    let ca = authority.display().to_string();
    let reset = format!("https://{API}/api/v1/reset");
    let refused = scene.curl(&["--cacert", &ca, "--request", "POST", &reset]).map_err(anyhow::Error::msg)?;
    ensure!(refused.contains("Authorization: Bearer"), "{refused}");

    // Somebody else's word is not taken.
    let (done, said) = scene.xlb(&["status"], &stranger.file())?;
    ensure!(!done && said.contains("--ca-file"), "{said}");
    let ca = stranger.file().display().to_string();
    let refused = scene.curl(&["--cacert", &ca, &format!("https://{API}/lb/status")]);
    ensure!(refused.as_ref().is_err_and(|error| error.contains("certificate")), "{refused:?}");

    // Without TLS one is told.
    let told = scene.curl(&["--include", &format!("http://{API}/lb/status")]).map_err(anyhow::Error::msg)?;
    ensure!(told.starts_with("HTTP/1.1 400") && told.contains("this port speaks TLS"), "{told}");
    let output = scene.lb().command(paths::xlb()?).arg("status").output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(!output.status.success() && said.contains("this port speaks TLS"), "{said}");
    ensure!(!daemon.log().contains("can read the key"), "{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_reload_takes_another_certificate_and_a_wrong_one_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let daemon = scene.daemon()?;
    scene.wait_ready(&daemon)?;
    let ca = scene.authority.file().display().to_string();
    let named = |name: &str| {
        let at = format!("{name}.example.org:9400:127.0.0.1");
        let url = format!("https://{name}.example.org:9400/health/live");
        scene.curl(&["--cacert", &ca, "--resolve", &at, &url]).is_ok()
    };
    ensure!(named("first") && !named("second"));
    scene.put("second")?;
    ensure!(named("first") && !named("second"), "not before the reload");
    daemon.xlb(&["reload"])?;
    ensure!(named("second") && !named("first"), "{}", daemon.log());

    // Another's key; then one that everybody could take.
    let other = scene.authority.sign("third", "DNS:third.example.org")?;
    fs::copy(&other.chain, scene.file("api.pem"))?;
    let refused = daemon.xlb(&["reload"]).map(|_| String::new()).unwrap_or_else(|error| format!("{error:#}"));
    ensure!(refused.contains("is not that of the first certificate"), "{refused}");
    ensure!(named("second"), "{}", daemon.log());
    fs::copy(&other.key, scene.file("api.key"))?;
    fs::set_permissions(scene.file("api.key"), fs::Permissions::from_mode(0o644))?;
    daemon.xlb(&["reload"])?;
    ensure!(named("third") && daemon.log().contains("can read the key"), "{}", daemon.log());
    fs::remove_file(scene.file("api.key"))?;
    let refused = daemon.xlb(&["reload"]).map(|_| String::new()).unwrap_or_else(|error| format!("{error:#}"));
    ensure!(refused.contains("api.key: cannot be read"), "{refused}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn with_files_that_cannot_be_used_the_daemon_does_not_start_and_says_which() -> Result<()> {
    let scene = Scene::new()?;
    let said_with = |certificate: &[u8], key: &[u8]| -> Result<String> {
        fs::write(scene.file("api.pem"), certificate)?;
        fs::write(scene.file("api.key"), key)?;
        let mut daemon = scene.daemon()?;
        let status = daemon.process().wait(LIMIT)?;
        ensure!(!status.success(), "{}", daemon.log());
        Ok(daemon.log())
    };
    let (certificate, key) = (fs::read(scene.file("api.pem"))?, fs::read(scene.file("api.key"))?);
    for (certificate, key, expected) in [
        (&b""[..], &key[..], "api.pem: no certificate in it"),
        (&key, &key, "api.pem: no certificate in it"),
        (&certificate, b"", "api.key: no private key in it"),
        (b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &key, "api.pem: not PEM"),
    ] {
        let log = said_with(certificate, key)?;
        ensure!(log.contains(expected), "{expected:?} is not in:\n{log}");
    }
    Ok(())
}
