//! The unit under a real systemd.

use anyhow::{Result, ensure};
use xlb_tests::{Booted, paths};

use super::support::path;

const CONFIG: &str = "\
[xdp]
interfaces = [\"xlb0\"]
[[service]]
name = \"web\"
vip = \"192.0.2.1\"
port = 80
[[service.backend]]
address = \"10.9.0.2\"
";

/// Puts everything where the unit looks for it. `$config` is that with a service.
fn machine() -> Result<Booted> {
    let machine = Booted::new()?;
    machine.share(&paths::xlb()?, "xlb")?;
    machine.share(&path("config/xlb.service"), "xlb.service")?;
    machine.share(&path("config/xlb.toml"), "xlb.toml")?;
    std::fs::write(machine.shared().join("configured.toml"), CONFIG)?;
    Ok(machine)
}

const INSTALL: &str = "\
install -m 755 /mnt/shared/xlb /usr/bin/xlb
install -m 644 /mnt/shared/xlb.service /etc/systemd/system/xlb.service
mkdir /etc/xlb
cp /mnt/shared/configured.toml /etc/xlb/xlb.toml
systemctl daemon-reload
show() { systemctl show xlb --property=\"$1\" --value; }
attached() { ip -d link show xlb0 | grep -c prog/xdp || true; }
";

#[test]
#[ignore = "needs root: boots systemd in namespaces"]
fn the_hardened_unit_starts_reloads_refuses_what_is_wrong_and_ends() -> Result<()> {
    let script = "\
systemctl start xlb
echo started: $(show ActiveState), $(show StatusText), attached $(attached)
systemctl reload xlb
echo reloaded: $(show ActiveState), $(show StatusText)
echo nonsense >> /etc/xlb/xlb.toml
systemctl reload xlb && echo accepted || echo refused: $(show ActiveState)
echo watched every $(show WatchdogUSec), heard of: $(show WatchdogTimestampMonotonic | grep -c [1-9])
grep CapEff /proc/$(show MainPID)/status
systemctl stop xlb
echo stopped: $(show Result), attached $(attached), restarts $(show NRestarts)
journalctl -u xlb --no-pager
";
    let said = machine()?.run(&format!("{INSTALL}{script}"))?;
    for wanted in [
        "started: active, 1 service on xlb0, attached 1\n",
        "reloaded: active, 1 service on xlb0\n",
        "refused: active\n",
        "watched every 30s, heard of: 1\n",
        "CapEff:\t0000008000003000\n",
        "stopped: success, attached 0, restarts 0\n",
    ] {
        ensure!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: boots systemd in namespaces"]
fn the_hardened_unit_lets_probes_into_tunnels_and_a_machine_without_tun_starts_too() -> Result<()> {
    let script = "\
printf 'forward = \"ipip\"\\nhealth = { via = \"path\" }\\n' | sed -i '/^port/r /dev/stdin' /etc/xlb/xlb.toml
systemctl start xlb
until ip link show up dev xlb-path0 | grep -q NOARP; do sleep 0.1; done
echo with: $(show ActiveState)
systemctl stop xlb
echo stopped: $(ip link | grep -c xlb-path || true)
rm /dev/net/tun
systemctl start xlb
until journalctl -u xlb | grep -q 'modprobe tun'; do sleep 0.1; done
echo without: $(show ActiveState)
journalctl -u xlb --no-pager
";
    let said = machine()?.run(&format!("{INSTALL}{script}"))?;
    for wanted in ["with: active\n", "stopped: 0\n", "without: active\n"] {
        ensure!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: boots systemd in namespaces"]
fn killed_it_is_started_again_and_without_a_service_it_is_not_started() -> Result<()> {
    let script = "\
sed -i '/xdp/a on_exit = \"keep\"' /etc/xlb/xlb.toml
systemctl start xlb
kill -9 $(show MainPID)
until [ $(show NRestarts) = 1 ] && [ $(show ActiveState) = active ]; do sleep 0.1; done
echo again: attached $(attached), $(journalctl -u xlb | grep -c 'taking over the tables')
systemctl stop xlb
cp /mnt/shared/xlb.toml /etc/xlb/xlb.toml
systemctl start xlb
echo unconfigured: $(show ActiveState), $(journalctl | grep -c 'xlb.service: Skipped due to .exec-condition')
";
    let said = machine()?.run(&format!("{INSTALL}{script}"))?;
    for wanted in ["again: attached 1, 1\n", "unconfigured: inactive, 1\n"] {
        ensure!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: boots systemd in namespaces"]
fn hanging_it_is_ended_by_the_watchdog_and_started_again() -> Result<()> {
    let script = "\
mkdir /run/systemd/system/xlb.service.d
printf '[Service]\\nWatchdogSec=1s\\n' > /run/systemd/system/xlb.service.d/soon.conf
systemctl daemon-reload
systemctl start xlb
before=$(show MainPID)
first=$(show WatchdogTimestampMonotonic)
until [ $(($(show WatchdogTimestampMonotonic) - first)) -gt 2000000 ]; do sleep 0.1; done
echo alive: restarts $(show NRestarts), the same $(test $before = $(show MainPID) && echo yes)
kill -STOP $before
until [ $(show NRestarts) = 1 ] && [ $(show ActiveState) = active ]; do sleep 0.1; done
echo again: attached $(attached), watchdog $(journalctl | grep -c 'xlb.service: Watchdog timeout')
";
    let said = machine()?.run(&format!("{INSTALL}{script}"))?;
    for wanted in ["alive: restarts 0, the same yes\n", "again: attached 1, watchdog 1\n"] {
        ensure!(said.contains(wanted), "no {wanted:?} in:\n{said}");
    }
    Ok(())
}
