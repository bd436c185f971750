"""The table of docs/chaos.md, written by a whole run."""

from __future__ import annotations

from collections.abc import Sequence

from support import DOCS

from chaos.run import Outcome

PAGE = DOCS / "chaos.md"
_BEGIN, _END = "<!-- what make chaos has found -->\n", "<!-- end -->\n"
_COLUMNS = (
    *("Set-up", "Seconds", "Kills", "Faults", "Runs struck", "Accepted", "Completed", "Failed with a cause"),
    *("Cancelled", "Lost", "Run twice", "Otherwise wrong"),
)


def write(outcomes: Sequence[Outcome], planned: int) -> None:
    """Put these into the page, in place of those of the last run, which was to have so many."""
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text(f"{before}{_BEGIN}\n{format_table(outcomes, planned)}\n{_END}{after}")


def format_table(outcomes: Sequence[Outcome], planned: int) -> str:
    """A line for each set-up, and the sum of all."""
    rows = [[outcome.plan.blueprint.name, *_count(outcome)] for outcome in outcomes]
    sums = [sum(column) for column in zip(*map(_count, outcomes), strict=True)]
    lines = [_COLUMNS, ["---"] * len(_COLUMNS), *([f"`{name}`", *counts] for name, *counts in rows), ["all", *sums]]
    command = f"`make chaos ARGS='--seed {outcomes[0].plan.seed}'`, {len(outcomes)} of {planned} set-ups"
    return f"{command}:\n\n" + "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _count(outcome: Outcome) -> list[int]:
    verdict = outcome.verdict
    return [
        *(round(outcome.seconds), outcome.kills, outcome.strikes.total(), outcome.struck),
        *(verdict.accepted, verdict.completed, verdict.causes.total(), verdict.cancelled),
        *(len(verdict.lost), len(verdict.twice), len(verdict.wrongs)),
    ]
