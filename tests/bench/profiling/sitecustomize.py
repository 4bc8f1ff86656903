"""Profiles any Python process that starts with this folder in PYTHONPATH and BENCH_PROFILE_FOLDER=<folder>.

Python imports a module of this name at every start, so the profiled code needs no switch of its own. The
profile of the main thread, from start to exit, is written when the process ends by itself or by SIGTERM.
"""

import atexit
import cProfile
import os
import re
import signal
import sys
import time
from pathlib import Path

if "BENCH_PROFILE_FOLDER" in os.environ:
    folder = Path(os.environ["BENCH_PROFILE_FOLDER"])
    # Processor time: what waits costs nothing, and what others do meanwhile is not ours.
    profile = cProfile.Profile(time.thread_time)
    # The module and what follows it, as "services.author" or "uvicorn-…plain.gateway_app".
    name = re.sub(r"[^\w.]+", "_", "-".join(sys.orig_argv[2:4]))

    def write() -> None:
        profile.disable()
        profile.dump_stats(folder / f"{name}-{os.getpid()}.prof")

    # Uvicorn ends by raising the signal it was stopped with again, which by default skips the exit handlers.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    atexit.register(write)
    profile.enable()
