"""NAME=VALUE and NAME: VALUE arguments, given one by one, in a file (``@FILE``) or on standard input (``@-``).

Files and standard input keep secrets out of the list of processes. No error shows a value. Knows no command.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

_FROM_FILE = "@"
_STANDARD_INPUT = "-"
_READ = "standard input was read"
"""A key in click's context."""


def _read_pairs(ctx: click.Context, option: click.Parameter, texts: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in _expand(ctx, option, texts)]
    if not all(name and equals for name, equals, _ in pairs):
        raise click.BadParameter("must be NAME=VALUE", ctx, option)  # without the value, which may be a secret
    return [(name, value) for name, _, value in pairs]


def _read_headers(ctx: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, str] | None:
    pairs = [text.partition(":") for text in _expand(ctx, option, texts)]
    names = {name.lower() for name, _, _ in pairs}
    if not all(name and colon for name, colon, _ in pairs) or len(names) < len(pairs):
        raise click.BadParameter("must be 'NAME: VALUE', each name once", ctx, option)  # the value may be a secret
    return {name: value.strip() for name, _, value in pairs} or None


def _expand(ctx: click.Context, option: click.Parameter, texts: Sequence[str]) -> list[str]:
    """Return the arguments, with each ``@FILE`` replaced by the lines of that file. Empty lines are skipped."""
    expanded: list[str] = []
    for text in texts:
        if text.startswith(_FROM_FILE):
            lines = re.split(r"\r?\n", _read_source(ctx, option, text.removeprefix(_FROM_FILE)))
            expanded += [line for line in lines if line]
        else:
            expanded.append(text)
    return expanded


def _read_source(ctx: click.Context, option: click.Parameter, name: str) -> str:
    is_file = name != _STANDARD_INPUT
    if not is_file and ctx.meta.setdefault(_READ, option) is not option:
        raise click.BadParameter("@- can be given to one option only: standard input is read once", ctx, option)
    try:
        # Bytes from the buffer, so that decoding does not depend on the locale.
        content = Path(name).read_bytes() if is_file else sys.stdin.buffer.read()
        return content.decode("utf-8-sig")
    except (OSError, ValueError, AttributeError) as error:  # AttributeError: standard input is closed
        otherwise = "it is not UTF-8" if isinstance(error, ValueError) else "it is closed"
        why = getattr(error, "strerror", None) or otherwise
        source = f"the file {name!r}" if is_file else "standard input"
        raise click.BadParameter(f"{source} can't be read: {why}", ctx, option) from None


pairs_option = partial(click.option, metavar="NAME=VALUE", multiple=True, callback=_read_pairs)
headers_option = partial(click.option, metavar="'NAME: VALUE'", multiple=True, callback=_read_headers)
