# shellcheck shell=sh
# From the package to a service in step, and what that service may do.
begun=$(date +%s)
try "apt installs the package without a network" apt-get install -y ./rostersync_*.deb
echo "      ($(($(date +%s) - begun)) s; $(dpkg-query -W -f '${Installed-Size}' rostersync) kB installed)"
grep -h '^rostersync:' "$said"
equal "it is enabled" "$(systemctl is-enabled rostersync)" enabled
equal "and not active" "$(show ActiveState)" inactive
refused "systemctl start, not configured" "" sh -c 'systemctl start rostersync; systemctl is-active rostersync'
holds "systemctl status says what to set" "$(systemctl status --no-pager rostersync)" "base_url is missing"
equal "restarts meanwhile" "$(show NRestarts)" 0

installed
try "its status line" within 10 says "main: 300 students, in step just now; next "
echo "      $(show StatusText)"
block Installing 2
equal "the token's mode and owner" "$(stat -c '%U:%G %a' /etc/rostersync/tokens/main-token)" "root:rostersync 640"
equal "the folder of tokens" "$(stat -c '%U:%G %a' /etc/rostersync/tokens)" "root:rostersync 750"
equal "the configuration's folder stays root's" "$(stat -c %U /etc/rostersync)" root
equal "the state folder" "$(stat -c '%U:%G %a' /var/lib/rostersync)" "rostersync:rostersync 700"
try "the manual page" sh -c 'man -P cat rostersync | grep -q "^NAME"'
try "installing again changes nothing" apt-get install -y --reinstall ./rostersync_*.deb
try "and the service is active" within 30 is ActiveState active

pid=$(show MainPID)
equal "the daemon's user" "$(awk '/^Uid/ {print $2}' "/proc/$pid/status")" "$(id -u rostersync)"
equal "its capabilities" "$(awk '/^CapEff/ {print $2}' "/proc/$pid/status")" 0000000000000000
equal "its right to gain any (NoNewPrivs: 1 is none)" "$(awk '/^NoNewPrivs/ {print $2}' "/proc/$pid/status")" 1
equal "its filter of system calls (Seccomp: 2 is on)" "$(awk '/^Seccomp:/ {print $2}' "/proc/$pid/status")" 2
equal "its core dumps" "$(awk '/^Max core file size/ {print $5, $6}' "/proc/$pid/limits")" "0 0"
holds "its exposure" "$(systemd-analyze security rostersync 2>/dev/null | tail -n 1)" "1.1 OK"

for words in check status sync resync "sync --dry-run" verify runs "db check" "status --max-age 1h" "status --nagios"; do
    # shellcheck disable=SC2086 # words are words
    try "root: rostersync $words" rostersync $words
done
equal "files that are not the service's alone" "$(foreign)" ""
try "the journal names runs" log_has '"run_id": [0-9]'
equal "lines of it that are no JSON" "$(logged | grep -v '^{' | grep -vE 'systemd|rostersync.service|^rostersync: |base_url is missing|no token yet|Started|Stopped|Starting|Stopping|Reload|Main process|Consumed|Scheduled|Condition|Skipped' | head -n 3)" ""
equal "and no token" "$(logged | grep -c invented-token)" 0
