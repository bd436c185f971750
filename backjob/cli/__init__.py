"""The command ``backjob``: its way in, which says what to install where click and rich are missing.

Knows no command. Imports nothing that a process would need that only serves an app.
"""

from __future__ import annotations

import sys

try:
    from .commands import run
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("click", "rich"):
        raise

    def run() -> int:
        """Say what is missing."""
        print("backjob: the command needs click and rich: pip install 'backjob[cli]'", file=sys.stderr)
        return 2


def main() -> int:
    """Run the command with the arguments of this process. Its exit code: docs/cli.md says what each means."""
    return run()
