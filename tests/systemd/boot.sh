#!/bin/sh
# Boots a real systemd in a container and tries the unit there: see probe.sh. `./dev test-systemd` calls it.
# Needs root, systemd-nspawn (Debian: systemd-container) and overlayfs. The container is this machine's own root folder,
# with all changes in memory; it has its own loopback and no other network. Nothing on this machine is changed.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)
root=$(cd -- "$here/../.." && pwd)
python=$1

[ "$(id -u)" = 0 ] || { echo "systemd: a container needs root" >&2; exit 2; }
command -v systemd-nspawn >/dev/null || { echo "systemd: no systemd-nspawn; apt install systemd-container" >&2; exit 2; }

work=$(mktemp -d)
clean_up() {
    umount "$work/m/tree" 2>/dev/null || true
    umount "$work/m" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

mkdir "$work/m" "$work/out"
mount -t tmpfs -o size=512m tmpfs "$work/m"
mkdir "$work/m/upper" "$work/m/work" "$work/m/tree"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/m/upper,workdir=$work/m/work" "$work/m/tree"

# The program as it may be installed on a server: an environment in /opt, whose interpreter and packages are this
# machine's own, mounted where the service can see them.
home=$("$python" -c 'import sys; print(sys.base_prefix)')
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
name=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
venv=$work/m/tree/opt/rostersync
mkdir -p "$venv/bin" "$venv/lib/$name/site-packages" "$work/m/tree/usr/local/bin"
printf 'home = /opt/python/bin\n' >"$venv/pyvenv.cfg"
ln -s "/opt/python/bin/$name" "$venv/bin/python"
printf '/opt/source\n/opt/packages\n' >"$venv/lib/$name/site-packages/rostersync.pth"
cat >"$venv/bin/rostersync" <<'END'
#!/opt/rostersync/bin/python
import sys
from rostersync.cli.program import program
sys.dont_write_bytecode = True
sys.exit(program())
END
chmod 755 "$venv/bin/rostersync"
echo /opt/python/lib >"$work/m/tree/etc/ld.so.conf.d/0-python.conf" # an interpreter may have a library of its own
rm -f "$work/m/tree/usr/local/bin/rostersync"
ln -s /opt/rostersync/bin/rostersync "$work/m/tree/usr/local/bin/rostersync"

units=$work/m/tree/etc/systemd/system
cat >"$units/simulator.service" <<'END'
[Service]
Type=exec
ExecStartPre=+/sbin/ldconfig
ExecStart=/usr/local/bin/rostersync simulator --port 8099 --students 300 --token invented-token
DynamicUser=yes
END
cat >"$units/probe.service" <<'END'
[Unit]
Requires=simulator.service
After=simulator.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c '/bin/sh /opt/source/tests/systemd/probe.sh >/mnt/out/report 2>&1; echo $? >/mnt/out/status'
ExecStopPost=systemctl poweroff --no-block
END
cat >"$units/probe.target" <<'END'
[Unit]
Requires=basic.target probe.service
After=basic.target
AllowIsolate=yes
END
# A PostgreSQL that boots later than the service: see probe.sh.
bin=$(dirname "$(readlink -f "$(command -v pg_ctl || echo /nowhere/pg_ctl)")")
cat >"$units/late-postgresql.service" <<END
[Service]
Type=exec
User=postgres
RuntimeDirectory=late-postgresql
ExecStartPre=/bin/sh -c 'sleep 40; $bin/initdb -D /run/late-postgresql/data -U postgres --no-sync -A peer >/dev/null'
ExecStart=$bin/postgres -D /run/late-postgresql/data -k /run/late-postgresql -c listen_addresses= -c fsync=off
TimeoutStartSec=120
END
systemd-id128 new >"$work/m/tree/etc/machine-id" # without one systemd takes this for a first boot, and asks

timeout 600 systemd-nspawn --quiet --directory="$work/m/tree" --boot --private-network --register=no --keep-unit \
    --console=pipe --bind-ro="$home:/opt/python" --bind-ro="$packages:/opt/packages" --bind-ro="$root:/opt/source" \
    --bind="$work/out:/mnt/out" systemd.unit=probe.target </dev/null >"$work/console" 2>&1 || true

if [ ! -e "$work/out/status" ]; then
    echo "systemd: the container ended before the probe did; the end of its console:" >&2
    tail -n 30 "$work/console" >&2
    [ ! -e "$work/out/report" ] || cat "$work/out/report" >&2
    exit 1
fi
cat "$work/out/report"
exit "$(cat "$work/out/status")"
