"""The end of a long text, as a terminal would show it: a carriage return overwrites the line.

Takes text in pieces and keeps about ``limit`` bytes of its end. Knows nothing of jobs, threads and stores.
"""

from __future__ import annotations

import re
from collections import deque

_LONGEST_LINE = 10_000
"""Longest unfinished line that a carriage return overwrites from its start, in characters; less with a low limit."""
_ERASE = re.compile(r"\x1b\[[02]?K")
"""Erase in line (ECMA-48, EL): sent with a carriage return by programs that overwrite a line."""
_STEP = 8
"""Divisor: a text over the limit is cut by an eighth of the limit, so that it is not cut with each new piece."""


class Tail:
    """The last ``limit`` bytes of UTF-8 of a text, or up to an eighth less, on whole lines where that is possible."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._most_fresh = max(limit // _STEP, 1)
        self._longest_line = min(limit // _STEP, _LONGEST_LINE)
        self._blocks: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        """Bytes that were finished before the first block."""
        self._begin = 0
        """The byte at which the text begins as it was last shown, counted like ``_dropped``."""
        self.is_line_open = False
        """True if the last line has no line break yet."""
        self._fresh: list[str] = []
        self._fresh_length = 0
        self._line: list[str] = []
        self._line_length = 0
        self._overwritten = ""
        """Old content of the line. Its part behind ``_line`` is still visible."""
        self._is_returned = False
        """True if the last character was a carriage return."""

    def copy(self) -> Tail:
        """Return another one with the same text."""
        other = Tail(self._limit)
        other.__dict__.update(self.__dict__)
        other._blocks, other._fresh, other._line = self._blocks.copy(), self._fresh[:], self._line[:]
        return other

    def write(self, text: str) -> None:
        """Take a piece of text."""
        self.is_line_open = not text.endswith("\n")
        if "\r" in text or self._is_returned or self._overwritten:
            self._overwrite(text)
            return
        finished, end, rest = text.rpartition("\n")
        if end:
            self._finish_line(finished, end)
        if rest:
            self._add_to_line(rest)

    def _overwrite(self, text: str) -> None:
        *lines, rest = text.split("\n")
        for line in lines:
            self._put(line)
            self._finish_line("", "\r\n" if self._is_returned else "\n")
        self._put(rest)

    def _put(self, text: str) -> None:
        """Take a piece of a line, which may have carriage returns."""
        for number, piece in enumerate(text.split("\r")):
            self._is_returned = self._is_returned or number > 0
            if piece:
                self._add_to_line(self._begin_anew(piece) if self._is_returned else piece)

    def _begin_anew(self, piece: str) -> str:
        """Overwrite the line. Return the piece without the control sequence that erases what was there."""
        erase = _ERASE.match(piece)
        self._overwritten = "" if erase else self._read_line()
        self._line, self._line_length, self._is_returned = [], 0, False
        return piece[erase.end() :] if erase else piece

    def _add_to_line(self, text: str) -> None:
        self._line.append(text)
        self._line_length += len(text)
        if self._line_length > self._longest_line:
            self._finish_line("", "")

    def _finish_line(self, text: str, end: str) -> None:
        text = self._read_line(text) + end
        self._line, self._line_length, self._overwritten, self._is_returned = [], 0, "", False
        self._fresh.append(text)
        self._fresh_length += len(text)
        if self._fresh_length >= self._most_fresh:
            self._make_block()

    def _read_line(self, more: str = "") -> str:
        line = "".join(self._line) + more
        return line + self._overwritten[len(line) :]

    def _make_block(self) -> None:
        block = "".join(self._fresh).encode()
        self._fresh, self._fresh_length = [], 0
        if len(block) > self._limit:  # the end of a longer text
            begin = _find_character(block, len(block) - self._limit)
            self._dropped += self._size + begin
            self._blocks.clear()
            block, self._size = block[begin:], 0
        self._blocks.append(block)
        self._size += len(block)
        while self._blocks and self._size - len(self._blocks[0]) >= self._limit:
            self._size -= len(self._blocks[0])
            self._dropped += len(self._blocks.popleft())

    def read(self, *, with_open_line: bool = True) -> tuple[str, int]:
        """Return the text, and the number of bytes that were left out before it."""
        fresh = "".join(self._fresh) + (self._read_line() if with_open_line else "")
        if not self._dropped and not self._begin and self._size + 4 * len(fresh) <= self._limit:
            return b"".join(self._blocks).decode() + fresh, 0
        raw = b"".join([*self._blocks, fresh.encode()])
        if self._dropped + len(raw) - self._begin > self._limit:
            keep = self._limit - self._limit // _STEP
            self._begin = self._dropped + _find_begin(raw, max(len(raw) - keep, self._begin - self._dropped))
        return raw[max(self._begin - self._dropped, 0) :].decode(errors="ignore"), self._begin


def _find_begin(raw: bytes, least: int) -> int:
    """Return the index of the next line's beginning at or after ``least``, or of a character's if the line is long."""
    if least <= 0 or raw[least - 1 : least] == b"\n":
        return max(least, 0)
    line_end = raw.find(b"\n", least, least + (len(raw) - least) // 2)
    if line_end >= 0:
        return line_end + 1
    return _find_character(raw, least)


def _find_character(raw: bytes, least: int) -> int:
    """Return the index of the first UTF-8 character that begins at or after ``least``."""
    while least < len(raw) and raw[least] & 0xC0 == 0x80:
        least += 1
    return least
