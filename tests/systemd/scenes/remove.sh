# shellcheck shell=sh
# Another host, removal, purge, and units that would hide the package's.
installed
cd /srv || exit 1
cp /mnt/pieces/new/rostersync_*.deb .
block "Moving to another host" 1
equal "the old host's service" "$(systemctl is-enabled rostersync), $(show ActiveState)" "disabled, inactive"
block Uninstalling 1
holds "it says what stays" "$(cat "$said")" "the data stays: /var/lib/rostersync"
equal "the service is stopped" "$(show ActiveState)" inactive
equal "the program is gone" "$(ls -d /usr/bin/rostersync /usr/lib/rostersync 2>/dev/null)" ""
try "configuration, token and data stay" test -s $config -a -s /etc/rostersync/tokens/main-token -a -s $database
try "installed again" apt-get install -y ./rostersync_*.deb
block Uninstalling 2
holds "it says where the data is" "$(cat "$said")" "the data stays: /var/lib/rostersync"
equal "nothing is left" "$(ls -d /etc/rostersync /var/lib/rostersync 2>/dev/null; getent passwd rostersync)" ""
block "Moving to another host" 2
try "on the new host the first run succeeds" within 60 synced

# Units of /etc/systemd/system would hide the package's.
apt-get purge -y rostersync >/dev/null 2>&1
cp /usr/lib/systemd/system/rostersync.service /etc/systemd/system/ 2>/dev/null || printf '[Service]\nExecStart=/bin/true\n' >/etc/systemd/system/rostersync.service
refused "a unit that was written by hand" "nothing was changed. " apt-get install -y ./rostersync_*.deb
equal "nothing was installed" "$(dpkg-query -W -f '${Status}' rostersync 2>/dev/null | grep -c ' installed')" 0
rm /etc/systemd/system/rostersync.service
ln -s /dev/null /etc/systemd/system/rostersync.service
try "a masked service stays masked" apt-get install -y ./rostersync_*.deb
equal "its state" "$(systemctl is-enabled rostersync 2>&1), $(show ActiveState)" "masked, inactive"
