"""``make chaos`` and ``make soak``: whole runs from the command line.

python -m chaos run [NAME …] [--seed SEED]            200 jobs and 20 kills on each set-up, or on these, and the table
python -m chaos soak SECONDS [NAME] [--seed SEED]     random faults for so long on one set-up
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
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
        names, plan = options.names or list(BLUEPRINTS), {"jobs": 200, "kills": 20, "pace": 4.0, "patience": 120.0}
    plans = [Plan(BLUEPRINTS[name], fitting(BLUEPRINTS[name]), options.seed, **plan) for name in names]
    outcomes: list[Outcome] = []
    with _beside_each_other(options.at_once) as map_plans:
        for outcome in filter(None, map_plans(_run, plans)):
            outcomes.append(outcome)
            if options.command == "run" and (options.page or not options.names):
                page.write(outcomes, len(plans))
    return _tell(outcomes, len(plans))


def _read(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos")
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("run")
    whole.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BLUEPRINTS))
    whole.add_argument("--page", action="store_true", help="write docs/chaos.md, though these are not all")
    soak = commands.add_parser("soak")
    soak.add_argument("seconds", type=float)
    soak.add_argument("name", nargs="?", default="gthread-postgresql", choices=BLUEPRINTS)
    for command in (whole, soak):
        command.add_argument("--seed", default=str(random.randrange(10**6)))
        command.add_argument("--at-once", type=int, default=1, metavar="N", help="set-ups beside each other")
    options = parser.parse_args(words)
    unknown = [name for name in getattr(options, "names", []) if name not in BLUEPRINTS]
    if unknown:
        parser.error(f"there is no set-up {unknown[0]}: {', '.join(BLUEPRINTS)}")
    return options


@contextlib.contextmanager
def _beside_each_other(number: int) -> Iterator[Callable[..., Iterable[Outcome | None]]]:
    """A map() that makes so many calls at once, each in a process of its own: who is interrupted interrupts them."""
    if number == 1:
        yield map
        return
    with multiprocessing.get_context("fork").Pool(number, maxtasksperchild=1) as pool:
        yield functools.partial(pool.imap, chunksize=1)
        pool.close()
        pool.join()


def _run(plan: Plan) -> Outcome | None:
    """What came out, told at once. None when the harness did not get to the end: that fails the whole, later."""
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{plan.blueprint.name}-", dir=_ROOM))
    with _own_services() as services:
        try:
            outcome = run(plan, folder, services)
        except AssertionError:
            words = f"{plan.blueprint.name}, seed {plan.seed}, did not get to its end"
            print(f"{words}; files in {folder}: {traceback.format_exc()}", flush=True)
            return None
    print(outcome, flush=True)
    if outcome.verdict.is_good:
        shutil.rmtree(folder)
    return outcome


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


def _tell(outcomes: list[Outcome], planned: int) -> int:
    bad = [outcome.plan.blueprint.name for outcome in outcomes if not outcome.verdict.is_good]
    print(f"{len(outcomes)} of {planned} set-ups, {len(bad)} with a broken promise:", ", ".join(bad) or "none")
    return 1 if bad or len(outcomes) < planned else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
