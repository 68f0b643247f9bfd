# shellcheck shell=sh
# A boot at which the database is away.
if [ ! -e /mnt/out/again ]; then
    start_postgresql
    installed
    block PostgreSQL 1
    try "the first run on PostgreSQL succeeds" within 60 synced
    sed -i 's/^auto$/manual/' /etc/postgresql/*/main/start.conf
    systemctl add-wants --quiet scene.target rostersync
    reboot_and_go_on_as away
fi
within 60 is ActiveState active >/dev/null
equal "after a boot without PostgreSQL the service is" "$(show ActiveState)" active
equal "the time that its start took (under 30 s)" "$(systemctl show -P ExecMainStartTimestampMonotonic -P ActiveEnterTimestampMonotonic rostersync |
    tr '\n' ' ' | awk '{d = ($2 - $1) / 1e6; if (d < 0) d = -d; print (d < 30) ? "yes" : d}')" yes
try "its status line says what it waits for" within 20 says "waiting for the database"
echo "      $(show StatusText)"
try "it can be reloaded" systemctl reload rostersync
equal "restarts meanwhile" "$(show NRestarts)" 0
before=$(date +%s)
try "PostgreSQL starts at last" pg_ctlcluster "$(ls /etc/postgresql)" main start
try "the service is in step" within 90 says "main: 300 students, in step"
echo "      ($(($(date +%s) - before)) s later)"
try "a resync" rostersync resync
try "root: verify" rostersync verify

# PostgreSQL goes while the service runs.
pg_ctlcluster "$(ls /etc/postgresql)" main stop -m immediate
systemctl kill --signal=SIGUSR1 rostersync
try "the status line says that the database went away" within 60 says "(waiting for the database|does not answer|database)"
echo "      $(show StatusText)"
pg_ctlcluster "$(ls /etc/postgresql)" main start
try "and is in step again" within 90 says "main: 300 students, in step"
equal "restarts meanwhile" "$(show NRestarts)" 0
