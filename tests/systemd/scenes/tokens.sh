# shellcheck shell=sh
# Wrong token, corrected token, another school, reloads good and broken.
try "apt installs the package" apt-get install -y ./rostersync_*.deb
sed -i "s|^# base_url = .*|base_url = \"$the_simulator\"|" $config
echo wrong-token | rostersync service token main
try "with a wrong token the service starts" systemctl start rostersync
try "the journal has a warning or worse" within 30 log_has 'rejected the token'
try "and so has the status line" within 30 says 'rejected the token'
echo "      $(show StatusText)"
refused "status --nagios" "never synced" rostersync status --nagios
since=$(show MainPID)
echo invented-token | block "A new token" 1
try "after the right one the run succeeds" within 30 synced
equal "without a restart" "$(show MainPID)" "$since"
try "and the status line is well" within 30 says 'main: 300 students, in step'

echo annex-token | block "Another school" 1 -e "s|$the_simulator|http://127.0.0.1:8098|"
try "the other school is synced" within 30 says 'annex: 200 students, in step'
echo "      $(show StatusText)"
equal "without a restart" "$(show MainPID)" "$since"

cp $config /tmp/config.toml
echo '[guard' >>$config
try "a reload with a broken file fails" sh -c '! systemctl reload rostersync'
try "the journal says why" within 10 log_has '"reload_failed"'
try "and so does the status line" within 10 says "^configuration refused: $config, "
echo "      $(show StatusText)"
equal "the service goes on" "$(show ActiveState), $([ "$(show MainPID)" = "$since" ] && echo the same process)" "active, the same process"
cp /tmp/config.toml $config
sed -i 's/^[# ]*incremental = .*/incremental = "1s"/; s/^[# ]*jitter = .*/jitter = "0s"/' $config
try "a reload with a good file" systemctl reload rostersync
before=$(runs)
try "the daemon goes by it" within 30 more_runs $((before + 2))
try "the status line has no complaint" within 10 says '^main: 300 students'
sed -i 's/^incremental = .*/incremental = "1h"/' $config
systemctl reload rostersync
before=$(runs)
try "SIGUSR1 is taken" systemctl kill --signal=SIGUSR1 rostersync
try "and syncs now" within 10 more_runs "$before"
for i in 1 2 3 4 5 6 7; do systemctl restart rostersync || bad "restart $i"; done
equal "seven restarts in a row reach no start limit" "$(show Result), $(show ActiveState)" "success, active"
