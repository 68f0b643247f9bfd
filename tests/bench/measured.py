"""Run a program, and print as the last line of standard error what it cost: seconds, processor seconds, and MiB.

`measured.py SECONDS PROGRAM...` kills the program if it takes longer. It is a process of its own, and a small one: a
program counts as at least as large as the process that started it.
"""

import os
import signal
import sys
import time

began = time.perf_counter()
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
signal.alarm(int(sys.argv[1]))
_, status, used = os.wait4(pid, 0)
wall = time.perf_counter() - began
print(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
