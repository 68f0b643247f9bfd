"""What `rostersync init` writes: every setting with its default, explained to a school's administrator."""

TEMPLATE = """\
# The configuration of rostersync. A line that starts with # is an explanation, or a setting at its default value: to
# change a setting, remove the #. `rostersync check` tests whether everything in this file works.

# The folder that holds the token of each source, in a file called NAME-token. `rostersync service token main` writes
# the file for the source "main". This setting must come before the first [table].
# tokens_dir = ""

[database]
# Where the students are stored. SQLite needs no server. The path of its file is relative to this file.
# For a service that systemd runs:  "sqlite:////var/lib/rostersync/roster.db"
# For PostgreSQL (requirements.txt contains its driver):  "postgresql+psycopg://USER@HOST/DATABASE"
# A server on another machine must prove by TLS that it is HOST. If your own authority has signed its certificate, add
# ?sslrootcert=FILE to the address. For a server on this machine, use its socket (docs/operations.md):
#   "postgresql+psycopg://rostersync@/rostersync?host=/run/postgresql"
# ${NAME} is replaced by the environment variable NAME, so this file need not contain a password. A password with
# special characters must be percent-encoded (@ is %40).
url = "sqlite:///roster.db"

# PostgreSQL only: whether an older schema is upgraded automatically. If false, run `rostersync db upgrade` yourself.
# auto_upgrade = false

# Each school has one [[sources]] block. Copy the block to add a school.
[[sources]]
# A short name of your choice. Every row of the database contains it, so it cannot be changed later.
name = "main"

# The address of the API in your region, not of your school. The token identifies the school.
#   https://api.managebac.com      international        https://api.us.managebac.com   United States
#   https://api.managebac.cn       China                https://api.managebac.us       United States, 2
# There is no default: remove the # and write the address of your region.
# base_url = ""
# api_version = "v2p1"

# Do not write the token itself (in ManageBac: Settings > Develop > API Manager) into this file. It is read from the
# file that token_file names, or from the environment variable that token_env names. If you set neither, it is read from
# the source's file in tokens_dir, or else from the environment variable ROSTERSYNC_TOKEN.
# token_env = "ROSTERSYNC_TOKEN"
# token_file = "main-token"            # a file that holds only the token, and that only its owner can read (chmod 600)

# How the token is sent: "header" or "parameter". Use "parameter" only if ManageBac answers 401 although the token is
# right: a parameter is part of the address, so servers and inspecting proxies may write it to their logs.
# auth = "header"

# Whether commands such as `rostersync students create`, `update` and `archive` may change this school's students.
# allow_writes = false

[schedule]
# When `rostersync run` reads what has changed: an interval ("1h", "1d"), or a cron line in the time zone below.
# ManageBac recommends once a day. Once an hour is acceptable.
# incremental = "1h"
# When it reads the whole roster again. That finds changes which an incremental run cannot see. Once a day is right.
# full = "0 2 * * *"
# Each run is delayed by a random time up to this, so that different schools do not send their requests at once.
# jitter = "2m"
# timezone = "UTC"

[sync]
# overlap = "10m"                      # how far before its starting point an incremental run reads again
# per_page = 200                       # students per request, at most 200; 100 if 200 are refused or too large
# max_age = "7d"                       # after a longer break than this, the whole roster is read
# concurrency = 4                      # requests in progress at once, for all schools together
# sources_at_once = 4                  # schools that are read at the same time
# timeout = "30s"                      # for one request
# retries = 5                          # for one request
# run_deadline = "30m"                 # for one run
# crawl_attempts = 3                   # attempts to read a list that keeps changing
# details_per_run = 500                # single students requested in a run, if ManageBac's lists lack some fields
# stage_mib = 2048                     # the most MiB a run may receive, or 10 times the database if that is more

[guard]
# If more students disappear within a day than these limits allow, their removal is held until you approve it.
# max_deletions = 25                   # 0: no removal without your approval
# max_deletion_percent = 5.0           # of the students in the database; 100 turns this limit off
# floor = 3                            # the percentage applies only to more removals than this

[network]
# Whether to use the proxy that HTTPS_PROXY or ALL_PROXY in the environment names. It is never used for addresses of
# this machine. The proxy learns which host is contacted, but cannot read the requests and answers.
# proxy_from_env = false

[logging]
# level = "info"                       # debug, info, warning or error
# format = "auto"                      # auto, console or json; auto means console on a terminal, otherwise json

[hooks]
# A command that is called after each run that inserted, updated, removed, restored or quarantined a student, whether
# the service or another command did the run. A path is relative to this file, and no shell is used. The command
# receives the run on standard input, as one line of JSON with ids and counts (the keys of `runs` in
# `rostersync sync --json`). Its environment has only PATH, HOME, LANG and the variables that begin with ROSTERSYNC_,
# without tokens and passwords. The command runs as the same user as rostersync, and can read the same files, so use
# only a program that you trust. If rostersync runs as root, it refuses a command that another user can write. The
# source stays locked until the command ends. If the command fails, the run is not undone, and the log gets the last
# lines that the command printed, so it must not print names. It is called once for each run, or not at all if the
# machine goes down.
# after_run = []                       # such as ["./notify.sh", "--quiet"]
# timeout = "30s"                      # after this time the command is killed, with every process that it has started
"""
