//! The Debian package that `XLB_DEB` names, installed, upgraded and removed on a machine with a real systemd.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xlb_tests::Booted;

const CONFIG: &str = "\
[xdp]
interfaces = [\"xlb0\"]
on_exit = \"keep\"
[[service]]
name = \"web\"
vip = \"192.0.2.1\"
port = 80
[[service.backend]]
address = \"10.9.0.2\"
";

const WORDS: &str = "\
exec 3>&2
show() { systemctl show xlb --property=\"$1\" --value; }
attached() { ip -d link show xlb0 | grep -c prog/xdp || true; }
there() { for it; do test -e \"$it\" && echo \"there: $it\" || echo \"not there: $it\"; done; }
quietly() { \"$@\" >/mnt/shared/quiet 2>&1 || { cat /mnt/shared/quiet; exit 1; }; }
";

fn package() -> Result<PathBuf> {
    std::env::var_os("XLB_DEB").map(PathBuf::from).context("XLB_DEB names no package; run: cargo xtask deb --check")
}

fn machine() -> Result<Booted> {
    let machine = Booted::new()?;
    machine.share(&package()?, "xlb.deb")?;
    std::fs::write(machine.shared().join("configured.toml"), CONFIG)?;
    Ok(machine)
}

fn expect(said: &str, wanted: &[&str]) -> Result<()> {
    for wanted in wanted {
        ensure!(said.lines().any(|line| line == *wanted), "no line {wanted:?} in:\n{said}");
    }
    Ok(())
}

#[test]
fn installed_it_waits_for_a_configuration_and_then_runs() -> Result<()> {
    let script = "\
quietly dpkg --install /mnt/shared/xlb.deb
echo fresh: $(systemctl is-enabled xlb), $(show ActiveState), failed $(systemctl --failed --no-legend | grep -c xlb || true)
xlb check 2>&1 || echo unconfigured
there /usr/share/man/man1/xlb-run.1.gz /usr/share/bash-completion/completions/xlb /usr/share/xlb/grafana/xlb.json
xlb check /usr/share/doc/xlb/examples/web-dsr.toml | grep -c ok,
bash -n /usr/share/bash-completion/completions/xlb
cp /mnt/shared/configured.toml /etc/xlb/xlb.toml
quietly systemctl start xlb
echo configured: $(show ActiveState), $(show StatusText), attached $(attached)
xlb status | head -1
sed -i 's/10.9.0.2/10.9.0.3/' /etc/xlb/xlb.toml
quietly systemctl reload xlb
echo reloaded: $(show ActiveState), $(xlb status | grep -c 10.9.0.3)
echo nonsense >> /etc/xlb/xlb.toml
systemctl reload xlb 2>/dev/null || echo wrong: refused, $(show ActiveState), attached $(attached)
quietly systemctl start xlb-agent
echo agent: $(systemctl is-active xlb-agent), enabled $(systemctl is-enabled xlb-agent || true)
";
    let said = machine()?.run(&format!("{WORDS}{script}"))?;
    expect(
        &said,
        &[
            "fresh: enabled, inactive, failed 0",
            "unconfigured",
            "there: /usr/share/man/man1/xlb-run.1.gz",
            "there: /usr/share/bash-completion/completions/xlb",
            "there: /usr/share/xlb/grafana/xlb.json",
            "1",
            "configured: active, 1 service on xlb0, attached 1",
            "reloaded: active, 1",
            "wrong: refused, active, attached 1",
            "agent: active, enabled disabled",
        ],
    )?;
    ensure!(said.contains("on xlb0 (generic)"), "{said}");
    Ok(())
}

#[test]
fn upgraded_it_keeps_its_configuration_and_takes_over_what_runs() -> Result<()> {
    let script = "\
quietly dpkg --install /mnt/shared/xlb.deb
cp /mnt/shared/configured.toml /etc/xlb/xlb.toml
quietly systemctl start xlb
before=$(show MainPID)
quietly dpkg-deb --raw-extract /mnt/shared/xlb.deb /tmp/next
sed -i 's/^Version: .*/&.1/' /tmp/next/DEBIAN/control
quietly dpkg-deb --build -Znone /tmp/next /tmp/next.deb
quietly dpkg --install /tmp/next.deb
echo upgraded: $(show ActiveState), attached $(attached), restarted $(test $before != $(show MainPID) && echo yes)
echo adopted: $(journalctl -u xlb | grep -c 'taking over the tables')
cmp /mnt/shared/configured.toml /etc/xlb/xlb.toml && echo configuration kept
";
    let said = machine()?.run(&format!("{WORDS}{script}"))?;
    expect(&said, &["upgraded: active, attached 1, restarted yes", "adopted: 1", "configuration kept"])
}

#[test]
fn removed_it_leaves_the_configuration_and_purged_nothing() -> Result<()> {
    let script = "\
quietly dpkg --install /mnt/shared/xlb.deb
cp /mnt/shared/configured.toml /etc/xlb/xlb.toml
echo secret > /etc/xlb/secret
quietly systemctl start xlb
echo running: attached $(attached)
quietly dpkg --remove xlb
echo removed: attached $(attached), processes $(pidof xlb | wc -w)
there /usr/bin/xlb /sys/fs/bpf/xlb /etc/xlb/xlb.toml
quietly dpkg --purge xlb
there /etc/xlb /var/lib/xlb /var/log/xlb
find / -xdev -name '*xlb*' -newer /mnt/shared/script.sh -not -path '/mnt/*' -not -path '/tmp/*' -not -path '/var/log/*' 2>/dev/null || true
echo end
";
    let said = machine()?.run(&format!("{WORDS}{script}"))?;
    expect(
        &said,
        &[
            "running: attached 1",
            "removed: attached 0, processes 0",
            "not there: /usr/bin/xlb",
            "not there: /sys/fs/bpf/xlb",
            "there: /etc/xlb/xlb.toml",
        ],
    )?;
    ensure!(
        said.ends_with("not there: /etc/xlb\nnot there: /var/lib/xlb\nnot there: /var/log/xlb\nend\n"),
        "something is left behind:\n{said}"
    );
    Ok(())
}

#[test]
fn it_is_of_the_version_that_the_workspace_has() -> Result<()> {
    let output = Command::new("dpkg-deb").arg("--field").arg(package()?).arg("Version").output()?;
    let version = String::from_utf8(output.stdout)?;
    let expected = format!("{}-1", env!("CARGO_PKG_VERSION"));
    ensure!(version.trim() == expected, "{version}, not {expected}");
    let changelog = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/debian/changelog");
    let first = std::fs::read_to_string(changelog)?.lines().next().unwrap_or_default().to_owned();
    ensure!(first.starts_with(&format!("xlb ({expected}) ")), "config/debian/changelog begins with {first:?}, not {expected}");
    Ok(())
}
