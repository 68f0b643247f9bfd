#!/bin/sh
# Runs as root inside the container that boot.sh boots: installs the service as the top of the unit says, starts it
# beside the simulator, and runs commands of root next to it. A line for each thing; exit status 1 when one went wrong.
# The service manager passes no HOME, and no PATH that holds what was installed.
export HOME=/ PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
failed=0

good() { echo "ok    $*"; }
bad() {
    echo "FAIL  $*"
    failed=1
}
try() { # WHAT COMMAND...: the command must succeed
    what=$1
    shift
    if "$@" >/tmp/said 2>&1; then good "$what: $(head -n 1 /tmp/said)"; else
        bad "$what (exit status $?)"
        sed 's/^/      /' /tmp/said
    fi
}
equal() { # WHAT FOUND EXPECTED
    if [ "$2" = "$3" ]; then good "$1: $2"; else bad "$1: $2, not $3"; fi
}
synced() { # waits until the replica has a run that succeeded
    for _ in $(seq 60); do
        rostersync status --json 2>/dev/null | grep -q '"last_state": "succeeded"' && return 0
        sleep 1
    done
    rostersync status
    return 1
}
foreign() { find /var/lib/rostersync \( ! -user rostersync -o ! -group rostersync -o -perm /077 \) -ls; }

# As the top of the unit says.
cd /opt/rostersync/systemd || exit 1
install -D -m 644 rostersync.sysusers /etc/sysusers.d/rostersync.conf && systemd-sysusers
install -m 644 rostersync.service /etc/systemd/system/
mkdir -p /etc/rostersync
cat >/etc/rostersync/config.toml <<'END'
[database]
url = "sqlite:////var/lib/rostersync/roster.db"
[[sources]]
name = "main"
base_url = "http://127.0.0.1:8099"
END
echo invented-token | install -m 600 /dev/stdin /etc/rostersync/main-token
export CREDENTIALS_DIRECTORY=/etc/rostersync # so that commands of root find the token, too

try "sysusers made the user" getent passwd rostersync
[ $failed = 0 ] || exit 1
systemctl daemon-reload
try "the service starts" systemctl start rostersync
try "its first run succeeds" synced

pid=$(systemctl show --property=MainPID --value rostersync)
equal "the daemon's user" "$(stat -c %U "/proc/$pid")" rostersync
equal "its capabilities" "$(awk '/^CapEff/ {print $2}' "/proc/$pid/status")" 0000000000000000
equal "its right to gain any (NoNewPrivs: 1 is none)" "$(awk '/^NoNewPrivs/ {print $2}' "/proc/$pid/status")" 1
equal "its filter of system calls (Seccomp: 2 is on)" "$(awk '/^Seccomp:/ {print $2}' "/proc/$pid/status")" 2
equal "its core dumps" "$(awk '/^Max core file size/ {print $5, $6}' "/proc/$pid/limits")" "0 0"
equal "the state folder" "$(stat -c '%U:%G %a' /var/lib/rostersync)" "rostersync:rostersync 700"
equal "the configuration's folder stays root's" "$(stat -c %U /etc/rostersync)" root

for words in check status sync resync "sync --dry-run" verify runs "db check"; do
    # shellcheck disable=SC2086 # words are words
    try "root: rostersync $words" rostersync $words
done
equal "files that are not the service's alone" "$(foreign)" ""

try "the service starts again" systemctl restart rostersync
try "root: rostersync status" rostersync status
try "the service stops" systemctl stop rostersync
equal "how it ended" "$(systemctl show --property=Result --value rostersync)" success
try "root, beside a service that is down: rostersync sync" rostersync sync
equal "files that are not the service's alone" "$(foreign)" ""
try "the service starts with what root has written" systemctl start rostersync
try "and its runs succeed" synced
ls -ln /var/lib/rostersync

if [ $failed = 1 ]; then
    journalctl --no-pager --unit=rostersync --lines=40
fi
exit $failed
