"""The entry point, before any command has begun."""

import subprocess
import sys

INTERRUPTED = """
import os, signal, sys, time

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "mapl_edge.cli":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
from mapl_edge.__main__ import main
main()
"""


def test_an_interrupt_while_modules_load_is_one_line() -> None:
    """No traceback, and the exit code that shells give for it."""
    ran = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False)

    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")
