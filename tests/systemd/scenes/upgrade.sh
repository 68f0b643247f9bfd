# shellcheck shell=sh
# Upgrade from an earlier revision $1 on the database $2, restore of that revision's dump, and the way back.
# shellcheck disable=SC2086 # a command of the earlier program is words
old="env ROSTERSYNC_TOKEN=invented-token /opt/rostersync/bin/rostersync" # 13cd6a6 reads no credential outside the service
url=sqlite:///$database
if [ "$2" = postgresql ]; then
    url="postgresql+psycopg://rostersync@/rostersync?host=/run/postgresql"
    start_postgresql
    runuser -u postgres -- createuser rostersync
    runuser -u postgres -- createdb --owner=rostersync rostersync
    # What the documents of 73e2bbf said, so that root may open the database too.
    printf 'rostersync rostersync rostersync\nrostersync root rostersync\n' >>"$(echo /etc/postgresql/*/main/pg_ident.conf)"
    sed -i '1i local rostersync rostersync peer map=rostersync' /etc/postgresql/*/main/pg_hba.conf
    systemctl reload postgresql
fi
try "$1 is installed as its documents say" "install_$1" "$url"
old_synced() { $old status --json | grep -q '"last_state": "succeeded"'; }
try "its first run succeeds" within 60 old_synced
[ $failed = 0 ] || { systemctl status --no-pager rostersync; end_of_scene; }
try "it verifies" $old verify

# The backup of before, as its documents say, and an analyst's view.
mkdir -m 700 /srv/backup
case $2 in
sqlite)
    files=/var/lib/rostersync
    python3 -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute("VACUUM INTO ?", (sys.argv[2],))' $files/roster.db /srv/backup/before
    ;;
postgresql)
    psql -c 'CREATE ROLE analyst' -c 'GRANT SELECT ON enrolled_student TO analyst'
    psql -c 'CREATE VIEW report AS SELECT source, count(*) AS students FROM enrolled_student GROUP BY source'
    runuser -u postgres -- pg_dump --format=custom rostersync >/srv/backup/before
    enrolled=$(psql -c 'SELECT students FROM report')
    ;;
esac
chmod 600 /srv/backup/before

if [ "$1" = 13cd6a6 ]; then # its unit was copied by hand, and its configuration names no token
    refused "the hand-made unit stops the package" "nothing was changed. " \
        apt-get install -y ./rostersync_*.deb
    equal "and the service goes on" "$(show ActiveState)" active
    try "the unit is moved away" mv /etc/systemd/system/rostersync.service /srv/rostersync.service
    systemctl daemon-reload
fi
installing=$(date +%s)
if [ "$2" = postgresql ] && [ "$1" = 73e2bbf ]; then
    block "Upgrading, and going back" 1
else
    try "apt installs the new package over it" apt-get install -y ./rostersync_*.deb
fi
grep -h '^rostersync:' "$said"
echo "      ($(($(date +%s) - installing)) s)"
rm /usr/local/bin/rostersync # as the package said
hash -r
if [ "$1" = 13cd6a6 ]; then
    holds "it says what its configuration lacks" "$(rostersync service ready 2>&1)" "token"
    sed -i '1i tokens_dir = "/etc/rostersync/tokens"' $config
    try "the token is stored" sh -c 'rostersync service token main </etc/rostersync/main-token'
    if [ "$2" = postgresql ]; then
        try "db upgrade --dry-run" rostersync db upgrade --dry-run
        sed 's/^/      /' "$said"
        # The upgrade waits for an analyst's long report, and is killed there.
        psql -c 'BEGIN' -c 'SELECT count(*) FROM enrolled_student' -c 'SELECT pg_sleep(300)' >/dev/null 2>&1 &
        waiting() { [ "$(psql -c "SELECT count(*) FROM pg_locks WHERE NOT granted")" -gt 0 ]; }
        rostersync db upgrade >/tmp/upgrade 2>&1 &
        upgrade=$!
        try "db upgrade waits for a reader" within 30 waiting
        kill -9 $upgrade
        wait $upgrade 2>/dev/null
        psql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename <> ''" >/dev/null
        wait 2>/dev/null
        equal "after kill -9 the schema is" "$(rostersync db current)" 0002
        equal "and the report answers" "$(psql -c 'SELECT students FROM report')" "$enrolled"
        try "db upgrade" rostersync db upgrade
    fi
    try "the service starts" systemctl restart rostersync
fi
equal "the unit is the package's" "$(systemctl show -P FragmentPath rostersync | sed 's|^/usr||')" /lib/systemd/system/rostersync.service
equal "it is enabled" "$(systemctl is-enabled rostersync)" enabled
try "the service is active" within 30 is ActiveState active
try "a resync" within 60 rostersync resync
equals_managebac "after the upgrade"
try "the status line" within 30 says "main: 300 students, in step"
[ "$2" = sqlite ] || equal "the analyst's view and grant are there" \
    "$(psql -c 'SELECT students FROM report') $(psql -c 'SET ROLE analyst' -c 'SELECT count(*) FROM enrolled_student')" "$enrolled $enrolled"
[ "$2" = postgresql ] || equal "files that are not the service's alone" "$(foreign)" ""

# The dump of the earlier revision is restored.
before=$(runs)
systemctl stop rostersync
try "db restore of the earlier revision's dump" rostersync db restore --yes /srv/backup/before
sed 's/^/      /' "$said"
try "the service starts" systemctl start rostersync
try "a resync" within 60 rostersync resync
equals_managebac "after the restore"
equal "run ids go on above those that were used" "$([ "$(runs)" -gt "$before" ] && echo yes)" yes
if [ "$2" = postgresql ]; then
    equal "the analyst's view and grant are there" \
        "$(psql -c 'SELECT students FROM report') $(psql -c 'SET ROLE analyst' -c 'SELECT count(*) FROM enrolled_student')" "$enrolled $enrolled"
    equal "no view of an earlier revision is left" "$(psql -c "SELECT count(*) FROM pg_views WHERE schemaname = 'public' AND viewname NOT IN ('report')
        AND viewname NOT IN (SELECT viewname FROM pg_views WHERE viewowner = 'rostersync')")" 0
fi

# The way back.
try "the package is removed" apt-get remove -y rostersync
case $2 in
sqlite)
    rm -f $database $database-wal $database-shm
    install -m 600 /srv/backup/before $database
    id rostersync >/dev/null 2>&1 && chown rostersync:rostersync $database
    ;;
postgresql)
    runuser -u postgres -- dropdb rostersync
    runuser -u postgres -- createdb --owner=rostersync rostersync
    runuser -u postgres -- pg_restore --single-transaction --dbname=rostersync </srv/backup/before
    ;;
esac
ln -s /opt/rostersync/bin/rostersync /usr/local/bin/
systemctl unmask rostersync 2>/dev/null
if [ "$1" = 13cd6a6 ]; then
    cp /srv/rostersync.service /etc/systemd/system/
    sed -i '/^tokens_dir/d' $config
    systemctl daemon-reload
    try "$1 starts again" systemctl enable --now rostersync
else
    try "$1 starts again" $old service install
fi
try "it syncs" within 60 $old resync
try "it verifies" $old verify
