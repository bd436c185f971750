"""The command ``backjob``: its way in, which says what to install where click and rich are missing.

Knows no command. Imports nothing that a process would need that only serves an app.
"""

from __future__ import annotations

import sys
from typing import NoReturn

try:
    from .commands import run
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("click", "rich"):
        raise

    def run() -> NoReturn:
        """Say what is missing."""
        print("backjob: the command needs click and rich: pip install 'backjob[cli]'", file=sys.stderr)
        sys.exit(2)


def main() -> NoReturn:
    """Run the command with the arguments of this process, and end it: docs/command.md has the exit codes."""
    run()
