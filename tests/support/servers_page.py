"""The table of docs/servers.md: what the matrix found, written down by the run itself.

python -m support.servers_page RECORD   writes it from the lines that a run of the whole matrix has recorded
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from support.servers import MANY

from . import DOCS

PAGE = DOCS / "servers.md"
IS_RECORDED = "MATRIX_RECORD" in os.environ
"""Is this the run of ``make servers``? Then nothing else is to run beside what is measured."""
_BEGIN, _END = "<!-- what make servers has found -->\n", "<!-- end -->\n"
_HEAD = """\
| Server | Version | Slots | Its address | start() | Jobs are watched |
| --- | --- | --- | --- | --- | --- |
"""
_WAYS = {"thread": "by a thread", "leave": "not watched"}


@dataclass(frozen=True)
class Finding:
    """How it went with one entry of the matrix."""

    entry: str
    slots: int
    products: tuple[str, ...]
    found: str
    """Where the address was found."""
    seconds: float
    """What start() took, the median."""
    way: str
    """Where a job is watched while it runs."""


def record(finding: Finding) -> None:
    """Append it to the file of $MATRIX_RECORD, if there is one."""
    line = json.dumps(asdict(finding))
    print(line)
    if IS_RECORDED:
        with open(os.environ["MATRIX_RECORD"], "a") as lines:
            lines.write(f"{line}\n")


def write(lines: Path) -> None:
    """Put what was recorded into the page."""
    findings = [Finding(**json.loads(line)) for line in lines.read_text().splitlines()]
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    table = _HEAD + "".join(map(_format, findings))
    PAGE.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}")


def read_names() -> list[str]:
    """The entries that the page has."""
    _, _, rest = PAGE.read_text().partition(_BEGIN)
    table, _, _ = rest.partition(_END)
    return [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]


def _format(finding: Finding) -> str:
    versions = ", ".join(map(_name_version, finding.products))
    slots = "many" if finding.slots == MANY else finding.slots
    # Which number a descriptor has is of no interest to anybody.
    found = finding.found.rstrip("0123456789 ")
    milliseconds = f"{finding.seconds * 1000:.0f} ms"
    return f"| `{finding.entry}` | {versions} | {slots} | {found} | {milliseconds} | {_WAYS[finding.way]} |\n"


def _name_version(product: str) -> str:
    if product == "python":
        return f"Python {platform.python_version()}"
    try:
        return f"{product} {importlib.metadata.version(product)}"
    except importlib.metadata.PackageNotFoundError:
        query = ["dpkg-query", "--show", "--showformat", "${source:Upstream-Version}", product]
        version = subprocess.run(query, capture_output=True, check=True, text=True).stdout
        return f"{product} {version}"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
