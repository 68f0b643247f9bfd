# shellcheck shell=sh
# Backup while the service runs, and restore with an analyst's view that depends on one of ours.
[ "$1" = sqlite ] || start_postgresql
installed
if [ "$1" = postgresql ]; then
    block PostgreSQL 1
    try "the first run on PostgreSQL succeeds" within 60 synced
    psql -c 'CREATE ROLE analyst'
    try "grant-reader" rostersync grant-reader analyst
fi
query() {
    if [ "$1" = postgresql ]; then
        runuser -u rostersync -- psql -X -q -A -t -d rostersync -c "$2"
    else
        runuser -u rostersync -- python3 -c 'import sqlite3, sys
database = sqlite3.connect("/var/lib/rostersync/roster.db")
print(*(row[0] for row in database.execute(sys.argv[1])))
database.commit()' "$2"
    fi
}
query "$1" "CREATE VIEW report AS SELECT source, count(*) AS students FROM enrolled_student GROUP BY source" >/dev/null
enrolled=$(query "$1" 'SELECT students FROM report')
mkdir -m 700 -p /srv/backup
block "Backup and restore" 1
file=$(echo /srv/backup/roster-*.backup)
echo "      ($(stat -c %s "$file") bytes)"
equal "the backup is root's alone" "$(stat -c '%U %a' "$file")" "root 600"
try "a resync" rostersync resync
try "another" rostersync resync
before=$(runs)

refused "a restore beside the service" "systemctl stop rostersync" rostersync db restore --yes "$file"
systemctl stop rostersync
head -c 3000 /dev/urandom >/srv/backup/foreign
refused "a foreign file" "foreign" rostersync db restore --yes /srv/backup/foreign
refused "a restore without a terminal and --yes" "--yes" rostersync db restore "$file"
query "$1" 'DELETE FROM student_detail' >/dev/null
query "$1" 'DELETE FROM student' >/dev/null
equal "after an accident the report is" "$(query "$1" 'SELECT students FROM report')" ""
block "Backup and restore" 2 -e "s|/srv/backup/roster-[0-9-]*.backup|--yes $file|"
sed 's/^/      /' "$said"
equal "the analyst's view says what it said" "$(query "$1" 'SELECT students FROM report')" "$enrolled"
equal "each student is there once" "$(query "$1" 'SELECT count(*) FROM student')" 300
if [ "$1" = postgresql ]; then
    equal "the analyst may still read" "$(psql -c 'SET ROLE analyst' -c 'SELECT count(*) FROM enrolled_student')" "$enrolled"
else
    equal "files that are not the service's alone" "$(foreign)" ""
fi
equal "run ids go on above those that were used" "$([ "$(runs)" -gt "$before" ] && echo yes)" yes
equals_managebac "after the restore"
try "the status line" within 20 says "main: 300 students, in step"

if [ "$1" = postgresql ]; then
    systemctl stop rostersync
    block Uninstalling 3
fi
