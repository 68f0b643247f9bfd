# shellcheck shell=sh
# What the scenes share. They run as root, in the folder of the new package.
. /mnt/source/tests/systemd/say.sh
. /mnt/source/tests/systemd/blocks.sh
# The service manager passes no HOME, and no PATH.
export HOME=/ PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
config=/etc/rostersync/config.toml
database=/var/lib/rostersync/roster.db
the_simulator=http://127.0.0.1:8099
api='s|https://api.managebac.com|http://127.0.0.1:8099|g'

block() { # HEADING N [SED...]: run the N-th sh block below a heading of docs/operations.md, after replacements
    heading=$1 number=$2
    shift 2
    text_of /mnt/source/docs/operations.md "$heading" "$number" | sed "-e$api" "$@" >/tmp/block
    if [ ! -s /tmp/block ]; then
        bad "docs/operations.md has no block $heading: $number"
        return
    fi
    echo "$heading: $number" >>/mnt/out/blocks
    begun=$(date +%s%N)
    try "block \"$heading\" $number" sh -e /tmp/block
    echo "      ($((($(date +%s%N) - begun) / 1000000)) ms)"
}
end_of_scene() {
    if [ $failed = 1 ]; then
        systemctl status --no-pager --lines=0 rostersync | head -n 12
        journalctl --no-pager --unit=rostersync --lines="${LINES:-30}" --output=cat
    fi
    echo "      ($name: $(($(date +%s) - began)) s)"
    exit $failed
}
reboot_and_go_on_as() { # PHASE: the scene runs again after a boot, and finds the word in /mnt/out/again
    [ $failed = 0 ] || end_of_scene
    echo "$1" >/mnt/out/again
    exit 99
}

# The service.
show() { systemctl show --property="$1" --value rostersync; }
is() { [ "$(show "$1")" = "$2" ]; }
says() { show StatusText | grep -qE "$1"; }
json() { rostersync status --json | grep -q "$1"; }
synced() { json '"last_state": "succeeded"'; }
runs() { rostersync runs --limit 1 --json | sed -n 's/.*"run_id": \([0-9]*\).*/\1/p' | head -n 1; }
more_runs() { [ "$(runs)" -gt "$1" ]; }
logged() { journalctl --unit=rostersync --output=cat "$@"; }
log_has() { logged | grep -qE "$1"; }
foreign() {
    find /var/lib/rostersync \( ! -user rostersync -o ! -group rostersync -o -perm /077 \) ! -name '*.sock' -ls
}
refused() { # WHAT PART COMMAND...: the command must fail, and say this
    what=$1 part=$2
    shift 2
    if "$@" >/tmp/refused 2>&1; then bad "$what: it did not fail"; else holds "$what" "$(cat /tmp/refused)" "$part"; fi
}

installed() { # the package, configured, with its first run done
    echo invented-token | block Installing 1
    try "the first run succeeds" within 60 synced
    [ $failed = 0 ] || end_of_scene
}
equals_managebac() { # WHAT: the replica is exact, and its schema whole
    try "$1: verify" within 30 rostersync verify
    try "$1: db check" rostersync db check
}

# Debian's PostgreSQL.
psql() { runuser -u postgres -- psql -X -q -A -t -v ON_ERROR_STOP=1 -d "${on:-rostersync}" "$@"; }
start_postgresql() { # a new cluster, whatever this machine has
    version=$(ls /usr/lib/postgresql 2>/dev/null | sort -n | tail -n 1)
    [ -n "$version" ] || { echo "skip  this machine has no PostgreSQL of Debian"; exit 0; }
    rm -rf /etc/postgresql/* /var/lib/postgresql/* /var/log/postgresql/*
    try "PostgreSQL $version" pg_createcluster "$version" main -- --no-sync
    echo 'fsync = off' >>"/etc/postgresql/$version/main/postgresql.conf"
    systemctl daemon-reload
    try "PostgreSQL starts" systemctl start postgresql
}

# Earlier revisions, installed as their own documents say, without a network.
install_13cd6a6() { # URL: its README; a copied unit, a user that exists only while the service runs
    python3 -m venv /opt/rostersync
    /opt/rostersync/bin/pip --quiet --disable-pip-version-check install --no-index --find-links /mnt/pieces/13cd6a6 'rostersync[postgresql]'
    ln -s /opt/rostersync/bin/rostersync /usr/local/bin/
    install -d /etc/rostersync
    printf '[database]\nurl = "%s"\n\n[[sources]]\nname = "main"\nbase_url = "%s"\n' "$1" $the_simulator >$config
    echo invented-token | install -m 600 /dev/stdin /etc/rostersync/main-token
    install -m 644 /mnt/pieces/13cd6a6/systemd/rostersync.service /etc/systemd/system/
    case $1 in postgresql*) rostersync db upgrade ;; esac
    systemctl daemon-reload
    systemctl enable --now rostersync
}
install_73e2bbf() { # URL: its docs/operations.md
    python3 -m venv /opt/rostersync
    /opt/rostersync/bin/pip --quiet --disable-pip-version-check install --no-index --require-hashes \
        --find-links /mnt/pieces/73e2bbf -r /mnt/pieces/73e2bbf/requirements.txt
    ln -s /opt/rostersync/bin/rostersync /usr/local/bin/
    install -d /etc/rostersync
    printf '[database]\nurl = "%s"\n\n[[sources]]\nname = "main"\nbase_url = "%s"\ntoken_file = "/etc/rostersync/main-token"\n' \
        "$1" $the_simulator >$config
    case $1 in postgresql*) rostersync db upgrade ;; esac
    echo invented-token | rostersync service install
}
