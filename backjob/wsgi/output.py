"""The output of a job: takes bytes and text, and keeps the end as one bounded text.

Decodes with the response's charset, cut at any byte; sums binary output up. Can hold back the first text of a body
until it has been checked, and an unfinished line for a moment. Knows nothing of jobs or stores.
"""

from __future__ import annotations

import codecs
import math
import re
import threading
import time
from collections.abc import Callable

import webob

from backjob.model.text import append_line, clean_text

from .content_coding import CODINGS, Decoder
from .tail import MOST_OPEN, Tail

_TEXT_TYPES = re.compile(
    r"text/.*|application/(?:.*\+)?(?:json|xml|yaml|x-yaml|javascript|x-www-form-urlencoded|x-ndjson)|.*\+(?:json|xml)"
)

_WITHOUT_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}  # as browsers decode them

_MOST_HELD = 65536
"""Characters of a body that are held back at most. A debug page is recognized by text after the exception's message,
which may be long."""

UNFINISHED = 0.3
"""Seconds after which an unfinished line is shown: one print() makes several writes."""


class Output:
    """The output of one run. ``limit``: the number of bytes of UTF-8 that are kept at the end.

    Several threads may write and read text.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._tail = Tail(limit)
        self._whole: Tail | None = None
        """The text including a body that is held back."""
        self.size = 0
        """Bytes that came in, as UTF-8 where they were text. Grows with each of them."""
        self.shown_size = 0
        """``size`` when the last output that is shown came in.

        Output that is held back or dropped is not shown, and an unfinished line not yet.
        """
        self._hidden: dict[int, float] = {}
        """Start of each unfinished line that is not shown yet, in time.monotonic(), by thread. The oldest is first."""
        self._hidden_size = 0
        """``size`` when the last text of such a line came in."""
        self._binary = 0
        self._type = ""
        self._is_text = True
        self._coding: Decoder | None = None
        self._coded = self._decoded = 0
        self._is_cut = False
        self._is_unwanted: Callable[[str], bool] | None = None
        self._held: list[str] = []
        """First text of a body that is not yet checked."""
        self._held_length = self._held_until = 0
        self._is_dropped = False
        self._charset = "utf-8"
        self._decoder: codecs.IncrementalDecoder = codecs.getincrementaldecoder("utf-8")("replace")

    def set_content_type(
        self, content_type: str, content_encoding: str = "", is_unwanted: Callable[[str], bool] | None = None
    ) -> None:
        """Set the type of the bytes that follow, as in the response's headers.

        With ``is_unwanted`` their first text is held back until it is long enough, or until finish(). It is passed to
        ``is_unwanted`` then. If that returns True, the whole body is dropped.
        """
        self._is_unwanted, self._is_dropped = is_unwanted, False
        self._type = content_type.partition(";")[0].strip().lower()
        coding = content_encoding.strip().lower()
        self._is_text = not self._type or _TEXT_TYPES.fullmatch(self._type) is not None
        self._coding = Decoder(coding) if self._is_text and coding in CODINGS else None
        if self._is_text and coding not in ("", "identity", *CODINGS):
            self._is_text, self._type = False, coding
        self._charset = _charset(content_type)
        self._decoder = codecs.getincrementaldecoder(self._charset)("replace")

    def write_bytes(self, chunk: bytes) -> None:
        """Take a piece of the response's body."""
        if self._is_dropped:
            return
        if self._coding is not None:
            self._write_coded(chunk, self._coding)
        elif self._is_text:
            self._write_body(self._decode(chunk))
        else:
            with self._lock:
                self._binary += len(chunk)
                self._count(len(chunk))

    def _write_coded(self, chunk: bytes, coding: Decoder) -> None:
        """Decode as much as may be kept. A small body may expand to any size: beyond the limit nothing is decoded."""
        self._coded += len(chunk)
        if self._is_cut:
            with self._lock:
                self._count(len(chunk))
            return
        try:
            for piece in coding.decode(chunk):
                rest = self._limit - self._decoded
                self._decoded += len(piece)
                self._write_body(self._decode(piece[:rest]))
                if self._is_dropped:
                    return
                if len(piece) > rest:
                    self._is_cut = True
                    return
        except ValueError:
            self._coding, self._is_text, self._type = None, False, "gzip" if coding.is_gzip else "deflate"
            with self._lock:
                self._binary = self._coded
                self._count(self._coded)

    def _write_body(self, text: str) -> None:
        """Take text of the body. Hold it back as long as the body is not checked."""
        if self._is_unwanted is None:
            self.write_text(text)
        elif text:
            with self._lock:
                self._whole = self._whole or self._tail.copy()
                self._whole.write(clean_text(text), threading.get_ident())
                self._held.append(text)
                self._held_length += len(text)
                self.size += len(text)
                self._held_until = self.size
            if self._held_length >= _MOST_HELD:
                self._check_held()

    def _check_held(self) -> None:
        """Put the text that was held back where it came, between texts of write_text(), or drop the body."""
        if self._is_unwanted is None:
            return
        with self._lock:
            is_unwanted, self._is_unwanted = self._is_unwanted, None
            held, self._held = self._held, []
            whole, self._whole = self._whole, None
            if whole is None:  # nothing was held back, or another thread has checked it
                return
            self._is_dropped = is_unwanted("".join(held))
            if not self._is_dropped:
                self._tail, self.shown_size = whole, max(self.shown_size, self._held_until)
                self._show_lines()

    def write_text(self, text: str) -> None:
        """Take text. An unfinished line goes on with the next text of the same thread or greenlet."""
        if not text:
            return
        text, writer = clean_text(text), threading.get_ident()
        with self._lock:
            before, was_open = self.size, self._tail.is_open(writer)
            self.size += len(text) if text.isascii() else len(text.encode())
            if self._whole is not None:
                self._whole.write(text, writer)
            if self._tail.write(text, writer):
                self.shown_size, was_open = before + 1, False
            if not was_open:
                self._hide_line(writer)
            if writer in self._hidden:
                self._hidden_size = self.size
            else:
                self.shown_size = self.size

    def _hide_line(self, writer: int) -> None:
        """Hide the new unfinished line of a writer, if it has one."""
        self._hidden.pop(writer, None)
        if self._tail.is_open(writer):
            if len(self._hidden) >= MOST_OPEN:
                del self._hidden[next(iter(self._hidden))]
            self._hidden[writer] = time.monotonic()

    def _count(self, size: int) -> None:
        self.size += size
        self.shown_size = self.size

    @property
    def wait(self) -> float | None:
        """Seconds until an unfinished line is shown; None without one, or if it is shown already."""
        if not self._hidden:
            return None
        with self._lock:
            since = next(iter(self._hidden.values()), None)
        return None if since is None else max(since + UNFINISHED - time.monotonic(), 0.0)

    def show_line(self) -> None:
        """Show unfinished lines from now on."""
        with self._lock:
            self._show_lines()

    def _show_lines(self, until: float = math.inf) -> None:
        """Show the unfinished lines that began until then."""
        while self._hidden and next(iter(self._hidden.values())) <= until:
            del self._hidden[next(iter(self._hidden))]
            self.shown_size = max(self.shown_size, self._hidden_size)

    def finish(self) -> None:
        """Finish the body: show half of a character as such, and check what is held back."""
        rest = self._decode(b"", final=True)
        if not self._is_dropped:
            self._write_body(rest)
        self._check_held()

    def _decode(self, chunk: bytes, final: bool = False) -> str:
        try:
            return self._decoder.decode(chunk, final)
        except UnicodeError:
            # A few codecs can't replace what they can't read: UTF-16 without its mark is one.
            held_back, _ = self._decoder.getstate()
            self._decoder = codecs.getincrementaldecoder(_WITHOUT_MARK.get(self._charset, "utf-8"))("replace")
            return self._decoder.decode(held_back + chunk, final)

    def text(self, *, is_whole: bool = True) -> str:
        """Return all of it as one text, with a line for what was left out.

        Without ``is_whole`` more is to come, and an unfinished line is not shown in its first moment.
        """
        with self._lock:
            self._show_lines(time.monotonic() - UNFINISHED)
            text, cut = self._tail.read(hidden=() if is_whole else self._hidden)
            binary = self._binary
        if cut:
            text = f"[{cut} bytes of earlier output were cut: max_output is {self._limit}]\n{text}"
        if binary:
            text = append_line(text, f"[{binary} bytes of {self._type or 'binary output'}]")
        if self._is_cut:
            text = append_line(text, f"[more output was cut: max_output is {self._limit}]")
        return text


def _charset(content_type: str) -> str:
    try:
        charset = webob.Response(headerlist=[("Content-Type", content_type)]).charset or "utf-8"
        # Raises LookupError for codecs that are no text encodings. An empty text would not be decoded at all.
        b"a".decode(charset, "replace")
    except UnicodeError:
        pass  # the byte may be only a part of a character
    except (LookupError, ValueError, AssertionError):
        return "utf-8"
    return codecs.lookup(charset).name
