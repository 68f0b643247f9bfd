#!/bin/sh
# Runs as root inside the container that boot.sh boots: installs the service beside the simulator, and tries what an
# administrator relies on. A line for each thing; exit status 1 when one went wrong.
# The service manager passes no HOME, and no PATH that holds what was installed.
export HOME=/ PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
failed=0
config=/etc/rostersync/config.toml

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
holds() { # WHAT TEXT PART: the text must contain the part
    case $2 in *"$3"*) good "$1: $2" ;; *) bad "$1: no \"$3\" in: $2" ;; esac
}
within() { # SECONDS COMMAND...: wait until the command succeeds
    limit=$1 until=$(($(date +%s) + $1))
    shift
    while [ "$(date +%s)" -le "$until" ]; do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.2
    done
    echo "not within $limit s: $*"
    return 1
}
show() { systemctl show --property="$1" --value rostersync; }
is() { [ "$(show "$1")" = "$2" ]; }
json() { rostersync status --json | grep -q "$1"; }
runs() { rostersync runs --limit 1 --json | sed -n 's/.*"run_id": \([0-9]*\).*/\1/p' | head -n 1; }
more_runs() { [ "$(runs)" -gt "$1" ]; }
logged() { journalctl --unit=rostersync --output=cat "$@"; }
log_has() { logged | grep -q "$1"; }
foreign() {
    find /var/lib/rostersync \( ! -user rostersync -o ! -group rostersync -o -perm /077 \) ! -name '*.sock' -ls
}

# Installing, and what it leads to.
try "service install shows what it would do" rostersync service install --base-url http://127.0.0.1:8099 --dry-run
equal "and does nothing of it" "$(ls /etc/rostersync 2>/dev/null)" ""
echo invented-token >/tmp/token
try "service install" rostersync service install --base-url http://127.0.0.1:8099 --token-file /tmp/token
rm -f /tmp/token
[ $failed = 0 ] || { journalctl --no-pager --unit=rostersync --lines=40; exit 1; }
equal "the service after it" "$(show ActiveState)" active
try "its first run succeeds" within 30 json '"last_state": "succeeded"'
try "its status line" within 10 sh -c 'systemctl show --property=StatusText --value rostersync | grep -q "main: 300 students, in step just now; next "'
echo "      $(show StatusText)"
try "service install again changes nothing" rostersync service install --base-url http://127.0.0.1:8099
equal "the credential's mode and owner" "$(stat -c '%U %a' /etc/rostersync/main-token)" "root 600"
equal "the configuration's folder stays root's" "$(stat -c %U /etc/rostersync)" root
equal "the state folder" "$(stat -c '%U:%G %a' /var/lib/rostersync)" "rostersync:rostersync 700"

# What it may do.
pid=$(show MainPID)
equal "the daemon's user" "$(awk '/^Uid/ {print $2}' "/proc/$pid/status")" "$(id -u rostersync)"
equal "its capabilities" "$(awk '/^CapEff/ {print $2}' "/proc/$pid/status")" 0000000000000000
equal "its right to gain any (NoNewPrivs: 1 is none)" "$(awk '/^NoNewPrivs/ {print $2}' "/proc/$pid/status")" 1
equal "its filter of system calls (Seccomp: 2 is on)" "$(awk '/^Seccomp:/ {print $2}' "/proc/$pid/status")" 2
equal "its core dumps" "$(awk '/^Max core file size/ {print $5, $6}' "/proc/$pid/limits")" "0 0"
holds "its exposure" "$(systemd-analyze security rostersync 2>/dev/null | tail -n 1)" "1.1 OK"

# Commands of root beside it.
for words in check status sync resync "sync --dry-run" verify runs "db check" "status --max-age 1h"; do
    # shellcheck disable=SC2086 # words are words
    try "root: rostersync $words" rostersync $words
done
equal "files that are not the service's alone" "$(foreign)" ""

# Reloading.
before=$(runs)
try "SIGUSR1 is taken" systemctl kill --signal=SIGUSR1 rostersync
try "and syncs now" within 10 more_runs "$before"
cp $config /tmp/config.toml
echo '[guard' >>$config
equal "the exit status of a reload with a broken file" "$(systemctl reload rostersync >/dev/null 2>&1; echo $?)" 1
try "the status line says so" within 10 sh -c \
    'systemctl show --property=StatusText --value rostersync | grep -q "^configuration refused: /etc/rostersync/config.toml, "'
try "is refused, and says why" within 10 log_has '"reload_failed"'
equal "the service after it" "$(show ActiveState)" active
cp /tmp/config.toml $config
sed -i 's/^[# ]*incremental = .*/incremental = "1s"/; s/^[# ]*jitter = .*/jitter = "0s"/' $config
try "a reload with a good file" systemctl reload rostersync
try "is taken" within 10 log_has '"reloaded"'
try "and the status line is as before" within 10 sh -c \
    'systemctl show --property=StatusText --value rostersync | grep -q "^main: 300 students"'
before=$(runs)
try "and the daemon goes by it" within 10 more_runs $((before + 2))

# Ends of all kinds.
try "kill -9" systemctl kill --signal=SIGKILL rostersync
try "the service is restarted" within 20 sh -c "[ \$(systemctl show --property=NRestarts --value rostersync) = 1 ]"
before=$(runs)
try "and its runs go on" within 20 more_runs "$before"
try "the replica equals ManageBac" rostersync verify
begun=$(date +%s)
try "it stops amid its work" systemctl stop rostersync
equal "within 5 s" "$([ $(($(date +%s) - begun)) -le 5 ] && echo yes)" yes
equal "how it ended" "$(show Result)" success
try "root, beside a service that is down: rostersync sync" rostersync sync
equal "files that are not the service's alone" "$(foreign)" ""

# A run that hangs: somebody else keeps the write lock of the database.
mkdir -p /etc/systemd/system/rostersync.service.d
printf '[Service]\nWatchdogSec=6\n' >/etc/systemd/system/rostersync.service.d/quick.conf
systemctl daemon-reload
try "the service starts" systemctl start rostersync
before=$(runs)
try "and runs" within 20 more_runs "$before"
/opt/rostersync/bin/python -c '
import sqlite3, time
database = sqlite3.connect("/var/lib/rostersync/roster.db", isolation_level=None)
database.execute("BEGIN IMMEDIATE")
time.sleep(25)' &
try "the watchdog ends a daemon that hangs" within 40 log_has "Watchdog timeout"
wait
try "and it is started again" within 40 is ActiveState active
before=$(runs)
try "and runs" within 30 more_runs "$before"
rm -r /etc/systemd/system/rostersync.service.d
systemctl daemon-reload

# A token that ManageBac does not know.
echo wrong-token >/etc/rostersync/main-token
systemctl restart rostersync
since=$(date '+%Y-%m-%d %H:%M:%S')
try "a wrong token is a warning or worse in the journal" within 20 sh -c \
    "journalctl --unit=rostersync -p warning --since='$since' --output=cat | grep -q 'rejected the token'"
try "and in the status line" within 20 sh -c 'systemctl show --property=StatusText --value rostersync | grep -q "rejected the token"'
echo invented-token >/etc/rostersync/main-token
systemctl restart rostersync

# What the journal says.
try "the journal names runs" log_has '"run_id": [0-9]'
equal "lines of it that are no JSON" "$(logged | grep -v '^{' | grep -vE '^(warn|fail)  |^      |systemd|rostersync.service|Started|Stopped|Starting|Stopping|Reload|Watchdog|Killing|Main process|Consumed|Scheduled|Failed with' | head -n 3)" ""
equal "and no token" "$(logged | grep -c 'invented-token')" 0

# PostgreSQL that boots 40 s later than the service.
if [ -n "$(command -v pg_ctl)" ]; then
    systemctl stop rostersync
    sed -i 's|^url = .*|url = "postgresql+psycopg://rostersync@/rostersync?host=/run/late-postgresql"|' $config
    systemctl reset-failed
    systemctl start --no-block late-postgresql
    try "the service starts without its database" timeout 10 systemctl start rostersync
    try "the service waits for its database" within 20 sh -c 'systemctl show --property=StatusText --value rostersync | grep -q "waiting for the database"'
    echo "      $(show StatusText)"
    equal "meanwhile" "$(show ActiveState)" active
    try "and can be reloaded" systemctl reload rostersync
    try "PostgreSQL starts at last" within 90 runuser -u postgres -- psql -h /run/late-postgresql -c 'SELECT 1'
    runuser -u postgres -- psql -q -h /run/late-postgresql -c 'CREATE ROLE rostersync LOGIN' \
        -c 'CREATE DATABASE rostersync OWNER rostersync'
    try "and runs" within 30 sh -c 'runuser -u rostersync -- rostersync status --json | grep -q "\"last_state\": \"succeeded\""'
    equal "restarts meanwhile" "$(show NRestarts)" 0
    try "its user, without the token: rostersync resync" runuser -u rostersync -- rostersync resync
    systemctl stop rostersync late-postgresql
    cp /tmp/config.toml $config
fi

# Uninstalling.
try "service uninstall" rostersync service uninstall
equal "the unit" "$(systemctl list-unit-files rostersync.service --no-legend)" ""
equal "the credential" "$(ls /etc/rostersync/main-token 2>/dev/null)" ""
try "the data stays" test -s /var/lib/rostersync/roster.db

if [ $failed = 1 ]; then
    journalctl --no-pager --unit=rostersync --lines=60
fi
exit $failed
