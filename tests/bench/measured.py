"""Run a program, and print as the last line of standard error what it cost: seconds, processor seconds, and MiB.

A process of its own, and a small one: until it begins, a program counts as large as whoever started it.
"""

import os
import sys
import time

began = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
wall = time.perf_counter() - began
print(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
