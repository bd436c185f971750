"""``python -m backjob``: the command, where its script is not in the PATH. Knows nothing else."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
