# In a mount namespace of its own: a control group to boot in, taken away again afterwards.
set -eu
mount --make-rprivate /
groups=$1/groups
mkdir "$groups"
mount -t cgroup2 none "$groups"
group=$groups/xlb-booted-$$
mkdir "$group"
leave() {
    echo $$ >"$groups/cgroup.procs"
    find "$group" -depth -type d -exec rmdir {} +
}
trap leave EXIT
echo $$ >"$group/cgroup.procs"
unshare --cgroup --pid --fork --kill-child --net --uts --ipc --mount bash "$1/inner.sh" "$1"
