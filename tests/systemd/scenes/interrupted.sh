# shellcheck shell=sh
# An upgrade from package to package: as it should go, killed in the middle, on a full disk, and back.
cp -r /mnt/pieces/new /srv/new
cd /srv/new || exit 1
new=$(basename rostersync_*.deb)
try "the earlier package is installed" apt-get install -y "./before/$new"
sed -i "s|^# base_url = .*|base_url = \"$the_simulator\"|" $config
echo invented-token | rostersync service token main
systemctl start rostersync
try "its first run succeeds" within 60 synced
version() { dpkg-query -W -f '${Status} ${Version}' rostersync | grep -c "ok installed .*$1"; }
pid=$(show MainPID)

block "Upgrading, and going back" 1
equal "the new package is installed" "$(version '~before$')" 0
equal "the upgrade restarted the service" "$([ "$(show MainPID)" != "$pid" ] && echo yes), $(show ActiveState)" "yes, active"
block "Upgrading, and going back" 3
equal "the earlier package is back" "$(version '~before$')" 1
try "and in step" within 30 says "main: 300 students, in step"

# Killed while dpkg unpacks the files, and while the package's postinst runs.
state() { dpkg-query -W -f '${db:Status-Status}' rostersync; }
unpacks() { [ "$(state)" = half-installed ]; }
configures() { pgrep -f info/rostersync.postinst >/dev/null; }
repaired() {
    block "Upgrading, and going back" 2
    equal "the package is whole" "$(state)$(dpkg --verify rostersync)" installed
    try "the service is active" within 30 is ActiveState active
    equals_managebac "after it"
}
for moment in unpacks configures; do
    setsid dpkg -i "$new" >/tmp/dpkg 2>&1 &
    killed=$!
    until $moment || ! kill -0 $killed 2>/dev/null; do sleep 0.05; done
    kill -9 "-$killed"
    wait "$killed" 2>/dev/null
    holds "killed while dpkg $moment it" "$(state)" half-
    equal "meanwhile the service goes on" "$(show ActiveState)" active
    repaired
done

# A full disk.
fallocate -l "$(($(df --output=avail -k / | tail -n 1) - 8000))K" /var/tmp/full 2>/dev/null ||
    head -c "$(($(df --output=avail -k / | tail -n 1) - 8000))K" /dev/zero >/var/tmp/full
refused "on a full disk the package is refused" "No space left on device" apt-get install -y --allow-downgrades "./before/$new"
try "the service goes on" within 5 is ActiveState active
rm /var/tmp/full
repaired
