"""`python -m tally`, before there is a command that could say anything."""

import signal
import subprocess
import sys

HURRIED = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "tally.cli":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
runpy.run_module("tally", run_name="__main__")
"""


def test_ctrl_c_while_it_is_being_loaded_ends_it_without_a_word() -> None:
    done = subprocess.run([sys.executable, "-c", HURRIED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
