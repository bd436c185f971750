"""What is kept of the ends of earlier attempts: the newest, and of each what it had to say last."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob.model.history import MOST_ENDS, MOST_TEXT, AttemptEnd, add_end, read_ends

NOW = datetime(2031, 1, 31, 23, 59, 58, 123456, tzinfo=timezone.utc)


@given(st.lists(st.builds(AttemptEnd, st.integers(1), st.just(NOW), st.text(max_size=50)), max_size=5))
def test_what_was_added_is_read(ends: list[AttemptEnd]) -> None:
    past = ""
    for end in ends:
        past = add_end(past, end)
    assert read_ends(past) == tuple(ends)


def test_only_the_last_ones_are_kept() -> None:
    past = ""
    for attempt in range(1, MOST_ENDS + 6):
        past = add_end(past, AttemptEnd(attempt, NOW + timedelta(seconds=attempt), f"end {attempt}"))
    assert [end.attempt for end in read_ends(past)] == list(range(6, MOST_ENDS + 6))
    assert read_ends(past)[-1] == AttemptEnd(MOST_ENDS + 5, NOW + timedelta(seconds=MOST_ENDS + 5), "end 25")


def test_of_a_long_text_its_end_is_kept_for_there_stands_why() -> None:
    past = add_end("", AttemptEnd(1, NOW, "x" * 10**6 + "\nValueError: no"))
    [end] = read_ends(past)
    assert end.text.endswith("x\nValueError: no")
    assert len(end.text) == MOST_TEXT
    assert len(past) < MOST_TEXT + 200


@pytest.mark.parametrize("past", ["", "[", "7", "{}", "[7]", '[{"attempt": 1}]', '[{"attempt": 1, "ended_at": "x"}]'])
def test_what_is_no_text_of_ours_is_nothing(past: str) -> None:
    assert read_ends(past) == ()
    assert read_ends(add_end(past, AttemptEnd(2, NOW, "b"))) == (AttemptEnd(2, NOW, "b"),)


def test_it_is_ready_for_json() -> None:
    end = AttemptEnd(2, NOW, "b")
    assert end.as_dict() == {"attempt": 2, "ended_at": "2031-01-31T23:59:58.123456+00:00", "text": "b"}
    assert AttemptEnd.from_dict(end.as_dict()) == end
