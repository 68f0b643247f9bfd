# shellcheck shell=sh
# An upgrade from package to package: as it should go, killed in the middle, on a full disk, and back.
cp -r /mnt/pieces/new /root/new
cd /root/new || exit 1
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
block "Upgrading, and going back" 2
equal "the earlier package is back" "$(version '~before$')" 1
try "and in step" within 30 says "main: 300 students, in step"

# Killed at moments of the installation; the usual remedy of Debian repairs each.
for moment in 0.5 1 2 3; do
    setsid dpkg -i "$new" >/tmp/dpkg 2>&1 &
    killed=$!
    sleep $moment
    kill -9 -- "-$killed" 2>/dev/null
    wait "$killed" 2>/dev/null
    echo "      (killed after $moment s: $(dpkg-query -W -f '${Status}' rostersync))"
    dpkg --configure -a >/tmp/dpkg 2>&1
    try "after a kill: apt installs it" apt-get install -y --fix-broken "./$new"
    equal "the package is whole" "$(dpkg-query -W -f '${Status}' rostersync); $(dpkg --verify rostersync)" "install ok installed; "
    try "the service is active" within 30 is ActiveState active
    equals_managebac "after it"
    apt-get install -y --allow-downgrades "./before/$new" >/dev/null 2>&1
done

# A full disk.
fallocate -l "$(($(df --output=avail -k / | tail -n 1) - 8000))K" /var/tmp/full 2>/dev/null ||
    head -c "$(($(df --output=avail -k / | tail -n 1) - 8000))K" /dev/zero >/var/tmp/full
pid=$(show MainPID)
refused "on a full disk the package is refused" "No space left on device" apt-get install -y "./$new"
try "the service goes on" within 5 is ActiveState active
rm /var/tmp/full
try "with room again apt installs it" apt-get install -y --fix-broken "./$new"
equal "the package is whole" "$(dpkg-query -W -f '${Status}' rostersync); $(dpkg --verify rostersync)" "install ok installed; "
try "the service is active" within 30 is ActiveState active
equals_managebac "after it"
