"""The configuration file that `rostersync init` writes. It explains every setting to a school's administrator."""

TEMPLATE = """\
# This is the configuration of rostersync. A line that starts with # is either an explanation or a setting with its
# default value. To change a setting, remove the # and edit the value. `rostersync check` tests whether everything in
# this file works.

# The folder that holds the token of each source, in a file called NAME-token. `rostersync service token main` writes
# the file for the source "main". This setting must come before the first [table].
# tokens_dir = ""

[database]
# The database that stores the students. SQLite needs no server, and the path of its file is relative to this file.
# For a service that systemd runs:  "sqlite:////var/lib/rostersync/roster.db"
# For PostgreSQL (requirements.txt contains its driver):  "postgresql+psycopg://USER@HOST/DATABASE"
# If the PostgreSQL server is on another machine, the server's TLS certificate must be valid for HOST. If your own
# certificate authority signed this certificate, add ?sslrootcert=FILE to the address. If the server is on this machine,
# use its socket (docs/operations.md):
#   "postgresql+psycopg://rostersync@/rostersync?host=/run/postgresql"
# ${NAME} is replaced by the environment variable NAME, so this file need not contain a password. A password with
# special characters must be percent-encoded (@ is %40).
url = "sqlite:///roster.db"

# PostgreSQL only. If true, an older database schema is upgraded automatically. If false, you must run `rostersync db
# upgrade` yourself.
# auto_upgrade = false

# Each school has one [[sources]] block. To add a school, copy the block.
[[sources]]
# A short name of your choice for the school. Every row of the database contains this name, so you cannot change it
# later.
name = "main"

# The address of the API in your region, not of your school. The token identifies the school.
#   https://api.managebac.com      international        https://api.us.managebac.com   United States
#   https://api.managebac.cn       China                https://api.managebac.us       United States, 2
# You must set this address: remove the # below and write the address of your region.
# base_url = ""
# api_version = "v2p1"

# An administrator creates the token in ManageBac, under Settings > Develop > API Manager. Do not write the token itself
# into this file. Set token_file to the path of a file with the token, or token_env to the name of an environment
# variable that contains the token. If you set neither token_file nor token_env, the token is read from the source's
# file in tokens_dir. If that file does not exist, the token is read from the environment variable ROSTERSYNC_TOKEN.
# token_env = "ROSTERSYNC_TOKEN"
# token_file = "main-token"            # a file with nothing but the token; only its owner may read it (chmod 600)

# How the token is sent: "header" or "parameter". Use "parameter" only if ManageBac answers 401 although the token is
# right. With "parameter", the token is part of the URL, so servers and TLS-inspecting proxies may write the token to
# their logs.
# auth = "header"

# If true, commands such as `rostersync students create`, `update` and `archive` may change this school's students.
# allow_writes = false

[schedule]
# When `rostersync run` reads the recent changes: an interval ("1h", "1d"), or a cron line in the time zone below.
# ManageBac recommends one run a day, but one run an hour is acceptable.
# incremental = "1h"
# When `rostersync run` reads all students again, to find changes that an incremental run cannot see. We recommend one
# full run a day.
# full = "0 2 * * *"
# The longest random delay before a run. Because of the delay, different schools do not all read their students at the
# same moment.
# jitter = "2m"
# timezone = "UTC"

[sync]
# overlap = "10m"                      # how far an incremental run reads back beyond the start of the previous run
# per_page = 200                       # students per request (at most 200); lowered to 100 if the API refuses 200
# max_age = "7d"                       # if the last successful run is older than this, all students are read again
# concurrency = 4                      # the maximum number of requests at the same time, for all schools together
# sources_at_once = 4                  # the maximum number of schools that are read at the same time
# timeout = "30s"                      # the time limit for one request
# retries = 5                          # how many times a failed request is retried
# run_deadline = "30m"                 # the time limit for one run
# crawl_attempts = 3                   # how many times a list is read again if it changes while it is read
# details_per_run = 500                # how many students a run may request one by one if the lists omit some fields
# stage_mib = 2048                     # a run may receive this many MiB, or 10 times the database size if that is more

[guard]
# If more students disappear within 24 hours than these limits allow, they are removed only after you approve it.
# max_deletions = 25                   # if this is 0, every removal needs your approval
# max_deletion_percent = 5.0           # a percentage of the students in the database; 100 disables this limit
# floor = 3                            # the percentage applies only if there are more removals than this number

[network]
# If true, requests go through the proxy in the environment variable HTTPS_PROXY or ALL_PROXY. Requests to this machine
# itself never use the proxy. The proxy learns which host is contacted, but cannot read the requests and responses.
# proxy_from_env = false

[logging]
# level = "info"                       # debug, info, warning or error
# format = "auto"                      # auto, console or json; auto means console on a terminal and json otherwise

[hooks]
# A command that is called after each run that inserted, updated, removed, restored or quarantined a student, whether
# the service or another command did the run. The path of the command is relative to this file. The command is called
# without a shell. The command receives a description of the run on standard input, as one line of JSON with ids and
# counts (the keys of `runs` in `rostersync sync --json`). The command's environment has only PATH, HOME, LANG and the
# variables that begin with ROSTERSYNC_, without tokens and passwords. The command runs as the same user as rostersync
# and can read the same files, so use only a program that you trust. If rostersync runs as root, it refuses a command
# that another user could change. The source stays locked until the command ends. If the command fails, the run is not
# undone, and the last lines that the command printed are written to the log. So the command must not print names. The
# command is called once for each run. If the machine goes down at the end of a run, the command may not be called.
# after_run = []                       # for example ["./notify.sh", "--quiet"]
# timeout = "30s"                      # after this time, the command and all processes that it started are killed
"""
