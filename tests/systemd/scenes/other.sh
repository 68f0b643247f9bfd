# shellcheck shell=sh
# A distribution without the package: the six commands, with the wheels of the latest earlier revision's dependencies.
mkdir /root/dist
cp /mnt/pieces/dist/* /root/dist
cd /root || exit 1
block "Other distributions" 1 -e 's/install --require-hashes/install --quiet --no-index --require-hashes/'
sed -i "s|^# base_url = .*|base_url = \"$the_simulator\"|" $config
echo invented-token | try "a token" rostersync service token main
try "the service starts" systemctl start rostersync
try "its first run succeeds" within 60 synced
try "a reload" systemctl reload rostersync
equals_managebac "without the package"
