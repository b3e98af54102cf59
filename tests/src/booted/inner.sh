# Boots systemd over a copy of this machine's files that lasts as long as it runs.
set -eu
shared=$1
box=$shared/box
mkdir "$box"
mount -t tmpfs none "$box"
mkdir "$box/upper" "$box/work" "$box/root"
mount -t overlay none -o "lowerdir=/,upperdir=$box/upper,workdir=$box/work" "$box/root"
root=$box/root
# Two ends of a cable: something to attach to.
ip link set lo up
ip link add xlb0 type veth peer name xlb1
ip addr add 10.9.0.1/24 dev xlb0
ip link set xlb0 up
ip link set xlb1 up
mount -t proc none "$root/proc"
# The kernel's settings are the machine's own.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro none "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t bpf none "$root/sys/fs/bpf"
mount -t tmpfs none "$root/run"
mount -t tmpfs none "$root/tmp"
mount -t tmpfs none "$root/dev"
for device in null zero full random urandom tty; do
    cp -a "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/net" "$root/dev/pts" "$root/dev/shm"
cp -a /dev/net/tun "$root/dev/net/tun"
mount -t devpts -o newinstance,ptmxmode=666 none "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
# What this machine itself does at boot is not wanted.
for units in /lib/systemd/system /usr/lib/systemd/system /etc/systemd/system; do
    rm -rf "$root$units"/{sysinit,basic,multi-user,network,network-online,sockets,timers,local-fs}.target.wants
done
rm -rf "$root/etc/xlb" "$root/var/log/journal"
# Nor what a container keeps packages from: starting services, and bringing their pages.
rm -rf "$root/usr/sbin/policy-rc.d" "$root/etc/dpkg/dpkg.cfg.d"
mkdir "$root/mnt/shared"
mount --bind "$shared" "$root/mnt/shared"
cat >"$root/etc/systemd/system/booted.target" <<'UNIT'
[Unit]
Wants=booted.service
Requires=systemd-journald.service
UNIT
cat >"$root/etc/systemd/system/booted.service" <<'UNIT'
[Unit]
After=systemd-journald.service
[Service]
Type=oneshot
ExecStart=/bin/bash -eu /mnt/shared/script.sh
ExecStopPost=/bin/sh -c 'echo "$EXIT_STATUS" >/mnt/shared/status'
ExecStopPost=/bin/systemctl --force --force exit 0
StandardOutput=append:/mnt/shared/output
StandardError=inherit
UNIT
mkdir "$root/mnt/before"
cd "$root"
pivot_root . mnt/before
umount -l /mnt/before
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=booted.target --log-target=journal --show-status=no
