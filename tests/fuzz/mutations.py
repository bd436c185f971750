"""Small random changes of bytes, texts and JSON values."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any

LETTERS = string.ascii_letters + string.digits + string.punctuation + " \t\xff\xe9\0\r\n"
NUMBERS = (0, 1, -1, 2, 99, 100, 101, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40)
STRANGE: tuple[Any, ...] = (None, True, False, "", "\0", "\ud800", b"", b"\xff", 1e308, 1e-300, float("inf"), [], {})


def mutate_bytes(choose: random.Random, value: bytes, other: bytes = b"") -> bytes:
    """One to four changes. ``other``: something to splice in."""
    for _ in range(choose.choice((1, 1, 1, 2, 4))):
        start, end = sorted((choose.randrange(len(value) + 1), choose.randrange(len(value) + 1)))
        changes: list[Callable[[], bytes]] = [
            lambda: value[:start] + choose.randbytes(1) + value[start:],  # noqa: B023 - called in this turn
            lambda: value[:start] + choose.randbytes(1) + value[start + 1 :],  # noqa: B023
            lambda: value[:start] + value[end:],  # noqa: B023
            lambda: value[:end] + value[start:],  # noqa: B023
            lambda: value[:start] + other[start:],  # noqa: B023
            lambda: value[:start] + choose.randbytes(choose.randrange(200)) + value[end:],  # noqa: B023
        ]
        value = choose.choice(changes)()
    return value


def mutate_text(choose: random.Random, text: str, other: str = "") -> str:
    """The same for a text of characters up to U+00FF."""
    if choose.random() < 0.3:
        return "".join(choose.choices(LETTERS, k=choose.randrange(300)))
    changed = mutate_bytes(choose, text.encode("latin-1"), other.encode("latin-1")).decode("latin-1")
    parts, others = text.split("."), other.split(".")
    if choose.random() < 0.3 and len(parts) == len(others):  # fields of two tokens
        changed = ".".join(choose.choice(pair) for pair in zip(parts, others, strict=True))
    return changed


def make_value(choose: random.Random) -> Any:
    """A value of any type that a database or JSON has."""
    kind = choose.randrange(6)
    if kind == 0:
        return choose.choice(NUMBERS) if choose.random() < 0.5 else choose.randrange(-5, 200)
    if kind == 1:
        return choose.choice(STRANGE)
    if kind == 2:
        return "".join(choose.choices(LETTERS, k=choose.randrange(40)))
    if kind == 3:
        return f"{choose.randrange(10_000):04}-{choose.randrange(13):02}-01 00:00:00.{choose.randrange(10**6):06}"
    if kind == 4:
        return choose.random() * 10 ** choose.randrange(-3, 300)
    return "[" * choose.choice((1, 10, 2000)) + choose.choice(("", "{}", "]"))


def mutate_json(choose: random.Random, value: Any) -> Any:
    """Change one place in lists and dicts, at any depth."""
    if isinstance(value, dict) and value and choose.random() < 0.9:
        key = choose.choice(sorted(value))
        changed = {**value, key: mutate_json(choose, value[key])}
        if choose.random() < 0.1:
            del changed[key]
        return changed
    if isinstance(value, list) and value and choose.random() < 0.9:
        place = choose.randrange(len(value))
        more = [value[place]] * (choose.random() < 0.1)
        return [*value[:place], mutate_json(choose, value[place]), *more, *value[place + 1 :]]
    if isinstance(value, str) and value and choose.random() < 0.3:
        return mutate_bytes(choose, value.encode("utf-8", "surrogatepass")).decode("latin-1")
    found = make_value(choose)
    return found if not isinstance(found, bytes) else found.decode("latin-1")
