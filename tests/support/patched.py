"""A process that gevent has patched from its start."""

from __future__ import annotations

import subprocess
import sys


def run_patched(program: str) -> str:
    """Return what this program prints."""
    lines = f"from gevent import monkey; monkey.patch_all()\n{program}"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    return done.stdout.strip()
