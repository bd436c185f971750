"""``make chaos`` and ``make soak``: whole runs from the command line.

python -m chaos run [NAME …] [--seed SEED]            200 jobs and 20 kills on each set-up, or on these, and the table
python -m chaos soak SECONDS [NAME] [--seed SEED]     random faults for so long on one set-up
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from support.services import OwnServices

from chaos import page
from chaos.blueprint import BLUEPRINTS
from chaos.faults import fitting
from chaos.run import Outcome, Plan, run

_ROOM = "/var/tmp"
"""On a disk, where /tmp may be memory."""


def main(words: list[str]) -> int:
    options = _read(words)
    # An operator's SIGTERM or a closed terminal ends it as Ctrl-C does: every block is left, and stops what it started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    if options.command == "soak":
        names, plan = [options.name], {"jobs": 0, "seconds": options.seconds}
    else:
        names, plan = options.names or list(BLUEPRINTS), {"jobs": 200, "kills": 20, "strikes": 2}
    outcomes = []
    with _own_services() as services:
        for name in names:
            blueprint = BLUEPRINTS[name]
            folder = Path(tempfile.mkdtemp(prefix=f"chaos-{name}-", dir=_ROOM))
            outcome = run(Plan(blueprint, fitting(blueprint), options.seed, **plan), folder, services)
            print(outcome, flush=True)
            outcomes.append(outcome)
            if outcome.verdict.is_good:
                shutil.rmtree(folder)
    if options.command == "run" and not options.names:
        page.write(outcomes)
    return _tell(outcomes)


def _read(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos")
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("run")
    whole.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BLUEPRINTS))
    soak = commands.add_parser("soak")
    soak.add_argument("seconds", type=float)
    soak.add_argument("name", nargs="?", default="gthread-postgresql", choices=BLUEPRINTS)
    for command in (whole, soak):
        command.add_argument("--seed", default=str(random.randrange(10**6)))
    options = parser.parse_args(words)
    unknown = [name for name in getattr(options, "names", []) if name not in BLUEPRINTS]
    if unknown:
        parser.error(f"there is no set-up {unknown[0]}: {', '.join(BLUEPRINTS)}")
    return options


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _own_services() -> Iterator[OwnServices]:
    with tempfile.TemporaryDirectory(prefix="chaos-services-", dir=_ROOM) as name:
        services = OwnServices(Path(name) / "services")
        try:
            yield services
        finally:
            services.remove()


def _tell(outcomes: list[Outcome]) -> int:
    bad = [outcome.plan.blueprint.name for outcome in outcomes if not outcome.verdict.is_good]
    print(f"{len(outcomes)} set-ups, {len(bad)} with a broken promise{': ' if bad else ''}{', '.join(bad)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
