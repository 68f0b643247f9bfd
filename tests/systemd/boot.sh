#!/bin/sh
# Boots a real systemd in a container for each scene and plays it there: `./dev test-systemd [SCENE...]` calls it with a
# folder that has the package, and the names of scenes. Needs root, systemd-nspawn (Debian: systemd-container),
# overlayfs, and for some scenes Debian's postgresql.
# A container is this machine's own root folder, with all changes in memory; it has its own loopback and no other
# network. Nothing on this machine is changed, but for the earlier revisions that earlier.sh builds once.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
root=$(cd -- "$here/../.." && pwd)
pieces=$1
shift

# The longest ones come first, because as many play at the same time as there are cores.
all="upgrade-73e2bbf-postgresql upgrade-13cd6a6-postgresql upgrade-73e2bbf-sqlite upgrade-13cd6a6-sqlite ends backup-postgresql
away interrupted backup-sqlite install tokens remove other"

[ "$(id -u)" = 0 ] || { echo "systemd: a container needs root" >&2; exit 2; }
command -v systemd-nspawn >/dev/null || { echo "systemd: no systemd-nspawn; apt install systemd-container" >&2; exit 2; }
[ "${1:-}" = --play ] || for scene in "$@"; do
    case " $(echo $all) " in *" $scene "*) ;; *) echo "systemd: no scene $scene; there are: $(echo $all)" >&2; exit 2 ;; esac
done

# Containers that share a control group take each other's services for their own.
hierarchies=$(ls -d /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified 2>/dev/null)
enter_group() {
    for hierarchy in $hierarchies; do
        if [ -e "$hierarchy/cgroup.procs" ]; then
            mkdir "$hierarchy/rostersync-test-$$"
            echo $$ >"$hierarchy/rostersync-test-$$/cgroup.procs"
        fi
    done
}
leave_group() {
    for hierarchy in $hierarchies; do
        if [ -e "$hierarchy/rostersync-test-$$" ]; then
            echo $$ >"$hierarchy/cgroup.procs"
            find "$hierarchy/rostersync-test-$$" -depth -type d -exec rmdir {} +
        fi
    done
}

clean_up() {
    leave_group || true
    umount "$work/m/tree" 2>/dev/null || true
    umount "$work/m" 2>/dev/null || true
    rm -rf "$work"
}

# Play one scene: its report goes to $1.report, the blocks of the documents that it ran to $1.blocks.
play() {
    work=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    enter_group
    mkdir "$work/m" "$work/out"
    mount -t tmpfs -o size=900m tmpfs "$work/m"
    mkdir "$work/m/upper" "$work/m/work" "$work/m/tree"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$work/m/upper,workdir=$work/m/work" "$work/m/tree"
    tree=$work/m/tree
    # A server has no such thing: an earlier installation, and a rule of some images that packages start no service.
    rm -f "$tree/usr/local/bin/rostersync" "$tree/usr/sbin/policy-rc.d"
    systemd-id128 new >"$tree/etc/machine-id" # without one systemd takes this for a first boot, and asks

    cat >"$tree/etc/systemd/system/simulator.service" <<'UNIT'
[Service]
Type=exec
Environment=PYTHONPATH=/mnt/pieces/libraries PYTHONDONTWRITEBYTECODE=1
ExecStart=/usr/bin/python3 -m rostersync simulator --port 8099 --students 300 --token invented-token
DynamicUser=yes
UNIT
    sed 's/8099/8098/; s/300/200/; s/invented-token/annex-token --seed 2/' "$tree/etc/systemd/system/simulator.service" \
        >"$tree/etc/systemd/system/annex.service"
    cat >"$tree/etc/systemd/system/scene.service" <<UNIT
[Unit]
Requires=simulator.service annex.service
After=simulator.service annex.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c '/bin/sh /mnt/source/tests/systemd/scene.sh $1 >>/mnt/out/report 2>&1; echo \$? >/mnt/out/status'
ExecStopPost=/bin/sh -c 'if [ "\$(cat /mnt/out/status)" = 99 ]; then systemctl reboot --no-block; else systemctl poweroff --no-block; fi'
UNIT
    cat >"$tree/etc/systemd/system/scene.target" <<'UNIT'
[Unit]
Requires=basic.target scene.service
After=basic.target
AllowIsolate=yes
UNIT
    while :; do
        code=0
        timeout --foreground 400 systemd-nspawn --quiet --directory="$tree" --boot --private-network --register=no --keep-unit \
            --console=pipe --bind-ro="$pieces:/mnt/pieces" --bind-ro="$root:/mnt/source" --bind="$work/out:/mnt/out" \
            --machine="rostersync-$(basename "$work" | tr -dc 'A-Za-z0-9')" systemd.unit=scene.target \
            </dev/null >"$work/console" 2>&1 || code=$?
        # A scene that wants another boot ends with 99, and the container with 133.
        if [ "$code" != 133 ] || [ "$(cat "$work/out/status" 2>/dev/null)" != 99 ]; then break; fi
        rm "$work/out/status"
    done
    status=$(cat "$work/out/status" 2>/dev/null) || {
        echo "FAIL  $1: the container ended ($code) before the scene did; the end of its console:"
        tail -n 30 "$work/console"
        status=1
    } >>"$work/out/report"
    touch "$work/out/blocks" "$work/out/report"
    mv "$work/out/report" "$results/$1.report"
    mv "$work/out/blocks" "$results/$1.blocks"
    cat "$results/$1.report"
    return "$status"
}

if [ "${1:-}" = --play ]; then # one of the calls below
    results=$RESULTS
    play "$2"
    exit
fi

results=$(mktemp -d)
players=
stop() {
    if [ -n "$players" ]; then
        kill -- "-$players" 2>/dev/null || true
        wait "$players" || true
    fi
    rm -rf "$results"
}
trap stop EXIT
trap 'exit 130' INT TERM

# What the scenes find beside the new package in new/: its libraries for the simulator, a package of the same content
# with a lower version, and earlier revisions.
(
    cd "$pieces"
    deb=$(ls new/*.deb)
    echo "package: $(basename "$deb"), $(($(stat -c %s "$deb") / 1000)) kB"
    dpkg-deb -R "$deb" before
    cp -r before/usr/lib/rostersync/lib/python3*/site-packages libraries
    sed -i 's/^Version: .*/&~before/' before/DEBIAN/control
    mkdir new/before
    dpkg-deb --root-owner-group -Znone --build before "new/before/$(basename "$deb")" >/dev/null
    rm -r before
)
for revision in 13cd6a6 73e2bbf; do
    cp -r "$(sh "$here/earlier.sh" $revision)" "$pieces/$revision"
done
chmod -R a+rX "$pieces"

begun=$(date +%s) status=0
# The players are a group of processes, so that they can be ended together.
printf '%s\n' ${@:-$all} | RESULTS=$results setsid xargs -P "${JOBS:-$(nproc)}" -n 1 sh "$0" "$pieces" --play &
players=$!
wait "$players" || status=1
players=

. "$here/blocks.sh"
if [ $# = 0 ]; then
    sort -u "$results"/*.blocks >"$results/run"
    blocks "$root/docs/operations.md" | sort | comm -23 - "$results/run" | sed 's/^/FAIL  no scene runs the block of docs\/operations.md: /' \
        >"$results/missing"
    cat "$results/missing"
    [ ! -s "$results/missing" ] || status=1
fi
cat "$results"/*.report | awk -v took="$(($(date +%s) - begun))" '/^ok /{ok++} /^FAIL /{fail++} /^scene /{n++}
    END {printf "%d scenes in %d s: %d ok, %d FAIL\n", n, took, ok, fail}'
exit "$status"
