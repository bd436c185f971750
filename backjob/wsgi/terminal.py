"""The unfinished line of one writer, as a terminal would show it: carriage return, erase in line and cursor up.

Knows nothing of other writers, and nothing of the text that the line becomes a part of.
"""

from __future__ import annotations

import re

CONTROL = re.compile(r"(\n|\r|\x1b\[[02]?K|\x1b\[\d{0,3}A)")
"""Controls that are interpreted: LF, CR, and of ECMA-48 "erase in line" (EL) and "cursor up" (CUU)."""
_BEGINNING = re.compile(r"\x1b(?:\[\d{0,3})?\Z")
"""The beginning of such a sequence at the end of a piece."""
SEQUENCE = re.compile(rf"\x1b\[(?:[02]?K|\d{{0,3}}A)|{_BEGINNING.pattern}")
"""A whole sequence that is interpreted, or the beginning of one at the end."""
MOST_LINES = 50
"""Lines of the screen: the cursor goes up no further than that."""


class Line:
    """An unfinished line. After the cursor has gone up, the lines above and below it belong to it."""

    __slots__ = ("_above", "_below", "_is_returned", "_old", "_pieces", "_sequence", "length")

    def __init__(self) -> None:
        self.length = 0
        """Number of characters in all its lines, without old content."""
        self._pieces: list[str] = []
        self._old = ""
        """Old content of the line. Its part behind the pieces is still visible."""
        self._is_returned = False
        """True if the next text overwrites the line."""
        self._sequence = ""
        """Beginning of a control sequence whose end is to follow."""
        self._above: list[str] = []
        self._below: list[str] = []
        """Lines below this one, from the bottom up."""

    def copy(self) -> Line:
        """Return a line with the same content."""
        other = Line()
        for name in self.__slots__:
            value = getattr(self, name)
            setattr(other, name, value[:] if isinstance(value, list) else value)
        return other

    @property
    def is_plain(self) -> bool:
        """True if text without control characters can simply be appended."""
        return not (self._is_returned or self._old or self._sequence or self._above or self._below)

    @property
    def is_in_use(self) -> bool:
        """True if it has content or the beginning of a control sequence."""
        return bool(self._pieces or self._old or self._sequence or self._above or self._below)

    @property
    def may_go_up(self) -> bool:
        """True if one more line fits on the screen."""
        return len(self._above) + len(self._below) < MOST_LINES

    @property
    def is_first(self) -> bool:
        """True if it holds no line above this one."""
        return not self._above

    def join(self, text: str) -> str:
        """Put the beginning of a sequence that was kept before the text. Keep one that the text ends with."""
        if self._sequence:
            text, self._sequence = self._sequence + text, ""
        begin = text.rfind("\x1b")
        if begin >= 0 and _BEGINNING.match(text, begin):
            text, self._sequence = text[:begin], text[begin:]
        return text

    def add(self, text: str) -> None:
        """Add text that has no control characters."""
        if self._is_returned:
            self._set(self._read_line().rstrip(" "))
        self._pieces.append(text)
        self.length += len(text)

    def go_to_begin(self) -> None:
        """Let the next text overwrite the line."""
        self._is_returned = bool(self._pieces or self._old)

    def erase(self, *, is_all: bool) -> None:
        """Erase what is behind the cursor, or all of the line."""
        if is_all or self._is_returned:
            self._set("")
        self._old = ""

    def go_up(self, line: str | None = None) -> None:
        """Go to the line above. ``line`` is its text if it was finished already."""
        self._below.append(self._read_line())
        self._go_to(self._above.pop() if line is None else line)

    def go_down(self) -> bool:
        """Go to the line below. False if there is no such line."""
        if not self._below:
            return False
        self._above.append(self._read_line())
        self._go_to(self._below.pop())
        return True

    def _go_to(self, line: str) -> None:
        self._set("")
        self._pieces, self._is_returned = [line], True
        self.length += len(line)

    def _set(self, old: str) -> None:
        self._pieces, self._old, self._is_returned = [], old, False
        self.length = sum(map(len, self._above)) + sum(map(len, self._below)) if self._above or self._below else 0

    def take(self) -> str:
        """Return what is visible, and begin a new line."""
        text = self.read()
        self._above, self._below = [], []
        self._set("")
        return text

    def read(self) -> str:
        """Return what is visible, without the end of the line."""
        if not (self._above or self._below):
            return self._read_line()
        return "\n".join(line.rstrip(" ") for line in (*self._above, self._read_line(), *reversed(self._below)))

    def _read_line(self) -> str:
        line = "".join(self._pieces)
        return line + self._old[len(line) :] if self._old else line
