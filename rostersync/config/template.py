"""What `rostersync init` writes: every setting with its default, explained to a school's administrator."""

TEMPLATE = """\
# The configuration of rostersync. Lines that start with # are explanations, or settings at their default: remove the #
# to change one. `rostersync check` tests whether everything in here works.

# A folder with the token of each source, in a file NAME-token; for the source "main" `rostersync service token main`
# writes it. This setting comes before the first [table].
# tokens_dir = ""

[database]
# Where the students are stored. A SQLite file needs nothing installed; its path is relative to this file. For a
# service that systemd runs:  "sqlite:////var/lib/rostersync/roster.db"
# For PostgreSQL (its driver is among requirements.txt):  "postgresql+psycopg://USER@HOST/DATABASE"
# A server on another machine must prove by TLS that it is HOST; if its certificate is of an authority of your own, add
# ?sslrootcert=FILE to the address. On the same machine use the server's socket (docs/operations.md):
#   "postgresql+psycopg://rostersync@/rostersync?host=/run/postgresql"
# ${NAME} is replaced by the environment variable NAME, so that no password needs to be in this file; a password with
# special characters must be percent-encoded (@ is %40).
url = "sqlite:///roster.db"

# PostgreSQL only: whether an older schema is upgraded automatically. If not, run `rostersync db upgrade`.
# auto_upgrade = false

# One [[sources]] for each school; copy the block for the next one.
[[sources]]
# A short name of your choice. It is in every row of the database, so it cannot be changed later.
name = "main"

# The API of your region, not your school's own address; the token says which school it is:
#   https://api.managebac.com      international        https://api.us.managebac.com   United States
#   https://api.managebac.cn       China                https://api.managebac.us       United States, 2
# None of them is the default: remove the # and write the address of your region.
# base_url = ""
# api_version = "v2p1"

# The token (in ManageBac: Settings > Develop > API Manager) does not belong in this file. It is read from the first of
# these places: the file that token_file names; the environment variable that token_env names; the file in tokens_dir;
# the environment variable ROSTERSYNC_TOKEN.
# token_env = "ROSTERSYNC_TOKEN"
# token_file = "main-token"            # instead: a file with nothing but the token, only for its owner (chmod 600)

# How the token is sent: "header", or "parameter" if ManageBac answers 401 to that although the token is right. A
# parameter is part of the address, so servers and inspecting proxies may write it to their logs.
# auth = "header"

# Whether `rostersync students create`, `update`, `archive` and the like may change this school's students.
# allow_writes = false

[schedule]
# When `rostersync run` looks for changes: an interval ("1h", "1d"), or a cron line in the time zone below.
# ManageBac recommends once a day; hourly is acceptable.
# incremental = "1h"
# When it reads the whole roster again, which finds what a look for changes cannot see. Once a day is right.
# full = "0 2 * * *"
# Each run is delayed by a random time up to this, so that not all schools ask at once.
# jitter = "2m"
# timezone = "UTC"

[sync]
# overlap = "10m"                      # how far each look for changes reaches back before the last one
# per_page = 200                       # students per request, 200 at most; if refused, or too large, 100
# max_age = "7d"                       # after a longer break than this the whole roster is read
# concurrency = 4                      # requests in progress at once, over all schools
# sources_at_once = 4                  # schools read at the same time
# timeout = "30s"                      # of one request
# retries = 5                          # of one request
# run_deadline = "30m"                 # of one run
# crawl_attempts = 3                   # attempts to read a list that keeps changing
# details_per_run = 500                # students asked for singly in a run, if ManageBac's lists lack some fields
# stage_mib = 2048                     # the most that a run may receive, or 10 times the database if that is more

[guard]
# If more students than this disappear within a day, their removal is held until you approve it.
# max_deletions = 25                   # 0: no removal without your approval
# max_deletion_percent = 5.0           # of the students in the database; 100 turns it off
# floor = 3                            # up to this many removals the percentage does not apply

[network]
# Whether the proxy that HTTPS_PROXY or ALL_PROXY in the environment names is used (but never for addresses of this
# machine itself). It learns which host is asked, and cannot read the rest.
# proxy_from_env = false

[logging]
# level = "info"                       # debug, info, warning or error
# format = "auto"                      # console on a terminal, json otherwise

[hooks]
# A command that is called after each run that inserted, updated, removed, restored or quarantined a student: by the
# service, and by commands that do a run themselves. A path is relative to this file; no shell is involved. It gets the
# run on standard input, as one line of JSON with the keys of `runs` in `rostersync sync --json`: ids and counts. Of the
# environment it gets only PATH, HOME, LANG and variables that begin with ROSTERSYNC_, but no tokens and no passwords.
# It runs as the same user as rostersync, so it can read the files that rostersync can read: only let it run a program
# that you trust. Root refuses a command that another user can write. The source is locked until the command ends, and
# its failure does not change the run. After a failure, the last lines that it printed are in the log, so it must not
# print names. It is called once for each run, or not at all if the machine goes down.
# after_run = []                       # such as ["./notify.sh", "--quiet"]
# timeout = "30s"                      # after this time it is killed, with every process that it has started
"""
