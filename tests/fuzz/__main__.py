"""``make fuzz``: python -m fuzz SECONDS [NAME …] [--seed SEED] [--round NUMBER]

Without a seed a random one is taken. It is printed, and with it and the round's number one round is repeated.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import random
import sys
import traceback

from fuzz.run import FUZZERS, Fault, run


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("seconds", type=float, help="for all of them together")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FUZZERS))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--round", type=int, help="this round only")
    options = parser.parse_args(words)
    names, faults = options.names or list(FUZZERS), 0
    if unknown := set(names) - FUZZERS.keys():
        parser.error(f"there is no fuzzer {', '.join(unknown)}: choose from {', '.join(FUZZERS)}")
    logging.getLogger("backjob").addHandler(logging.NullHandler())  # it says all the time what is spoiled
    for name in names:
        numbers = itertools.count() if options.round is None else iter([options.round])
        try:
            count = run(name, options.seed, numbers, options.seconds / len(names))
            print(f"{name}: {count} rounds, seed {options.seed}: no fault", flush=True)
        except Fault as fault:
            faults += 1
            traceback.print_exception(fault.__cause__)
            print(fault, flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
