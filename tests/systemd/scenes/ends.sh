# shellcheck shell=sh
# Ends of all kinds: SIGKILL, a stop amid the work, a hang.
installed
sed -i 's/^[# ]*incremental = .*/incremental = "1s"/; s/^[# ]*jitter = .*/jitter = "0s"/' $config
systemctl reload rostersync
restarted() { [ "$(show NRestarts)" -ge 1 ]; }
try "kill -9" systemctl kill --signal=SIGKILL rostersync
try "the service is restarted" within 30 restarted
before=$(runs)
try "and its runs go on" within 30 more_runs "$before"
begun=$(date +%s)
try "it stops amid its work" systemctl stop rostersync
equal "within 5 s" "$([ $(($(date +%s) - begun)) -le 5 ] && echo yes)" yes
equal "how it ended" "$(show Result)" success
try "root, beside a service that is down: rostersync sync" rostersync sync
equal "files that are not the service's alone" "$(foreign)" ""
equals_managebac "after all that"

# A run that hangs: another process keeps the write lock of the database.
mkdir -p /etc/systemd/system/rostersync.service.d
printf '[Service]\nWatchdogSec=6\n' >/etc/systemd/system/rostersync.service.d/quick.conf
systemctl daemon-reload
try "the service starts" systemctl start rostersync
before=$(runs)
try "and runs" within 20 more_runs "$before"
/usr/bin/python3 -c '
import sqlite3, time
database = sqlite3.connect("/var/lib/rostersync/roster.db", isolation_level=None)
database.execute("BEGIN IMMEDIATE")
time.sleep(25)' &
try "the watchdog ends a daemon that hangs" within 40 log_has "Watchdog timeout"
wait
try "and it is started again" within 40 is ActiveState active
before=$(runs)
try "and runs" within 30 more_runs "$before"

# A start that fails for good: OnFailure= reports it.
rm -r /etc/systemd/system/rostersync.service.d
block "Watching and steering it" 1
echo '[guard' >>$config
try "with a broken configuration a start fails" sh -c '! systemctl restart rostersync'
try "and stays so" within 20 is ActiveState failed
reported() { journalctl --priority=alert --output=cat | grep -q 'rostersync.service has failed'; }
try "the failure is reported" within 20 reported
