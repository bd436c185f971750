"""The end of a long text, as a terminal would show it. Each writer has an unfinished line of its own.

Takes text in pieces and keeps about ``limit`` bytes of its end. Knows nothing of jobs, threads and stores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container

from .terminal import CONTROL, MOST_LINES, SEQUENCE, Line

_LONGEST_LINE = 10_000
"""Longest unfinished line that a carriage return overwrites from its start, in characters; less with a low limit."""
MOST_OPEN = 256
"""Most unfinished lines. With another one, the oldest becomes a part of the text."""
_STEP = 8
"""Divisor: a text over the limit is cut by an eighth of the limit, so that it is not cut with each new piece."""


class Tail:
    """The last ``limit`` bytes of UTF-8 of a text, or up to an eighth less, on whole lines where that is possible.

    Several writers may take turns. Lines of the text are whole lines of one of them, in the order in which they ended.
    """

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
        self._fresh: list[str] = []
        self._fresh_length = 0
        self._open: dict[int, Line] = {}
        """The unfinished lines by their writers, in the order in which they began."""
        self._last_writer = 0
        """The writer of the end of the text, and the number of lines there that it has finished without another's."""
        self._last_lines = 0
        self._is_ended = True
        """False if the last text is the beginning of a line that was too long to be kept apart."""

    def copy(self) -> Tail:
        """Return another one with the same text."""
        other = Tail(self._limit)
        other.__dict__.update(self.__dict__)
        other._blocks, other._fresh = self._blocks.copy(), self._fresh[:]
        other._open = {writer: line.copy() for writer, line in self._open.items()}
        return other

    def is_open(self, writer: int) -> bool:
        """Return whether this writer has an unfinished line."""
        return writer in self._open

    def write(self, text: str, writer: int = 0) -> bool:
        """Take a piece of text. Return whether it finished a line."""
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        line = self._open.get(writer)
        is_plain = line is None or line.is_plain
        if not is_plain or "\r" in text or ("\x1b" in text and SEQUENCE.search(text)):
            return self._interpret(text, writer)
        finished, end, rest = text.rpartition("\n")
        if end:
            before = self._open.pop(writer).read() if line else ""
            self._put(f"{before}{finished}\n", writer)
            line = None
        if rest:
            self._add(rest, line or self._line(writer), writer)
        return bool(end)

    def _interpret(self, text: str, writer: int) -> bool:
        """Take a piece of text with control characters. The beginning of a sequence waits for its end."""
        line = self._line(writer)
        is_finished = False
        for number, piece in enumerate(CONTROL.split(line.join(text))):
            if number % 2:
                is_finished = self._control(piece, line, writer) or is_finished
            elif piece:
                self._add(piece, line, writer)
        if not line.is_in_use:
            del self._open[writer]
        return is_finished

    def _control(self, control: str, line: Line, writer: int) -> bool:
        """Do what a control character or sequence says. Return whether it finished a line."""
        if control == "\r":
            line.go_to_begin()
        elif control.endswith("K"):
            line.erase(is_all="2" in control)
        elif control.endswith("A"):
            self._go_up(int(control[2:-1] or 1), line, writer)
        elif not line.go_down():
            self._put(f"{line.take()}\n", writer)
            return True
        return False

    def _go_up(self, count: int, line: Line, writer: int) -> None:
        for _ in range(min(max(count, 1), MOST_LINES)):
            above = self._take_back(writer) if line.is_first and line.may_go_up else None
            if line.is_first and above is None:
                return
            line.go_up(above)

    def _take_back(self, writer: int) -> str | None:
        """Remove the last line of the text and return it, or return None if this writer did not write it."""
        if writer != self._last_writer or not self._last_lines or not self._is_ended:
            return None
        if not self._fresh:
            if not self._blocks:
                return None
            block = self._blocks.pop()
            self._size -= len(block)
            self._fresh = [block.decode()]
        text = "".join(self._fresh)[:-1]
        line = text[text.rfind("\n") + 1 :]
        rest = text[: len(text) - len(line)]
        self._fresh, self._fresh_length = [rest] if rest else [], len(rest)
        self._last_lines -= 1
        return line

    def _line(self, writer: int) -> Line:
        """Return the unfinished line of a writer. Begin one if there is no such line."""
        line = self._open.get(writer)
        if line is None:
            if len(self._open) >= MOST_OPEN:
                oldest = next(iter(self._open))
                self._put(self._open.pop(oldest).read(), oldest)
            line = self._open[writer] = Line()
        return line

    def _add(self, text: str, line: Line, writer: int) -> None:
        """Add to an unfinished line. If it is too long to be kept apart, it becomes a part of the text."""
        line.add(text)
        if line.length > self._longest_line or line.length * len(self._open) > self._limit:
            self._put(line.take(), writer)

    def _put(self, text: str, writer: int) -> None:
        """Add to the text. A line of another writer that is unfinished there ends before it."""
        if not text:
            return
        if writer != self._last_writer:
            if not self._is_ended:
                text = f"\n{text}"
            self._last_writer, self._last_lines = writer, 0
        self._last_lines += text.count("\n")
        self._is_ended = text.endswith("\n")
        self._fresh.append(text)
        self._fresh_length += len(text)
        if self._fresh_length >= self._most_fresh:
            self._make_block()

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

    def read(self, hidden: Container[int] = ()) -> tuple[str, int]:
        """Return the text, and the number of bytes that were left out before it.

        Unfinished lines are its last lines, without those of the ``hidden`` writers.
        """
        fresh = "".join(self._fresh) + self._read_open(hidden)
        if not self._dropped and not self._begin and self._size + 4 * len(fresh) <= self._limit:
            return b"".join(self._blocks).decode() + fresh, 0
        raw = b"".join([*self._blocks, fresh.encode()])
        if self._dropped + len(raw) - self._begin > self._limit:
            keep = self._limit - self._limit // _STEP
            self._begin = self._dropped + _find_begin(raw, max(len(raw) - keep, self._begin - self._dropped))
        return raw[max(self._begin - self._dropped, 0) :].decode(errors="ignore"), self._begin

    def _read_open(self, hidden: Container[int]) -> str:
        shown = {writer: line.read() for writer, line in self._open.items() if writer not in hidden}
        begun = "" if self._is_ended else shown.pop(self._last_writer, "")
        text = "\n".join(filter(None, shown.values()))
        return f"{begun}\n{text}" if text and (begun or not self._is_ended) else begun + text


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
