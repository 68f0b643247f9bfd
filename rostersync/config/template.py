"""What `rostersync init` writes: every setting with its default, for whoever keeps a school's computers."""

from __future__ import annotations

TEMPLATE = """\
# The configuration of rostersync. Lines with # in front are explanations, or settings at their default: take the #
# away to change one. `rostersync check` tells whether everything in here works.

[database]
# Where the students are kept. A file needs nothing installed; its path is relative to this file. For a service that
# systemd runs:  "sqlite:////var/lib/rostersync/roster.db"
# For PostgreSQL (first: pip install 'rostersync[postgresql]'):  "postgresql+psycopg://USER@HOST/DATABASE"
# ${NAME} is replaced by the environment variable NAME, so that no password need stand here; one with special
# characters must be percent-encoded (@ is %40).
url = "sqlite:///roster.db"

# PostgreSQL only: whether an older schema is upgraded by itself. If not, run `rostersync db upgrade`.
# auto_upgrade = false

# One [[sources]] for each school; copy the block for the next one.
[[sources]]
# A short name of your choice: it stands in every row of the database, so choose it for good.
name = "main"

# The API of your region, without your school's own address; the token tells which school is meant:
#   https://api.managebac.com      international        https://api.us.managebac.com   United States
#   https://api.managebac.cn       China                https://api.managebac.us       United States, 2
base_url = "https://api.managebac.com"
# api_version = "v2p1"

# The token (in ManageBac: Settings > Develop > API Manager) never stands in this file. Without a setting it is
# systemd's credential "main-token" where the service has one, else the environment variable ROSTERSYNC_TOKEN.
# token_env = "ROSTERSYNC_TOKEN"       # the name of another variable; or:
# token_file = "main-token"            # a file that holds the token alone, readable by its owner only (chmod 600)

[schedule]
# When `rostersync run` looks for changes: an interval ("1h", "1d"), or a cron line in the time zone below.
# ManageBac asks for once a day; hourly is still kind.
# incremental = "1h"
# When it reads the whole roster anew, which finds what a look for changes cannot see. Once a day is right.
# full = "0 2 * * *"
# Each start is put off by up to this much, so that not all schools ask at once.
# jitter = "2m"
# timezone = "UTC"

[sync]
# overlap = "10m"                      # how far each look for changes reaches back behind the last one
# per_page = 100                       # students asked for at once, 200 at most
# max_age = "7d"                       # after a break longer than this the whole roster is read
# concurrency = 4                      # requests under way at once, over all schools
# sources_at_once = 4                  # schools read at the same time
# timeout = "30s"                      # for one request
# retries = 5                          # for one request
# run_deadline = "30m"                 # for one run
# crawl_attempts = 3                   # readings of a roster that changes while it is read

[guard]
# More removals than these within a day are not applied but held, until you approve them.
# max_deletions = 25                   # 0: none without your approval
# max_deletion_percent = 5.0           # of the students known; 100 switches it off
# floor = 3                            # up to this many the percentage does not count

[logging]
# level = "info"                       # debug, info, warning or error
# format = "auto"                      # console on a terminal, json otherwise
"""
