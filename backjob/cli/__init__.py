"""The entry point of the command ``backjob``. It says what to install if click or rich is missing.

Knows no command. Serving an app imports none of this package.
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
        """Print which packages are missing."""
        print("backjob: the command needs click and rich: pip install 'backjob[cli]'", file=sys.stderr)
        sys.exit(2)


def main() -> NoReturn:
    """Run the command with the arguments of this process, and end it: docs/command.md has the exit codes."""
    run()
