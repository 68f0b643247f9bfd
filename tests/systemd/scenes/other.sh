# shellcheck shell=sh
# A distribution without the package: the commands of docs/operations.md.
cd /mnt/pieces || exit 1
block "Other distributions" 1 -e 's/install --require-hashes/install --quiet --disable-pip-version-check --no-index --require-hashes/'
sed -i "s|^# base_url = .*|base_url = \"$the_simulator\"|" $config
try "a token" sh -c 'echo invented-token | rostersync service token main'
systemctl daemon-reload
try "the service starts" systemctl start rostersync
try "its first run succeeds" within 60 synced
try "a reload" systemctl reload rostersync
equals_managebac "without the package"
