"""What a job has written so far: bytes and text in, one bounded text out.

Decodes with the response's charset, cut at any byte; sums binary output up. Can hold back the first text of a body
until it has been checked. Knows nothing of jobs or stores.
"""

from __future__ import annotations

import codecs
import re
import threading
from collections.abc import Callable

import webob

from .content_coding import CODINGS, Decoder
from .job import MOST_REASON

_TEXT_TYPES = re.compile(
    r"text/.*|application/(?:.*\+)?(?:json|xml|yaml|x-yaml|javascript|x-www-form-urlencoded|x-ndjson)|.*\+(?:json|xml)"
)

_WITHOUT_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}  # as browsers read them

_MOST_HELD = 65536
"""Characters of a body that are held back at most. A debug page is recognized by text after the exception's message,
which may be long."""


class Output:
    """The output of one run. ``limit`` is how many bytes of UTF-8 are kept. Several threads may write and read text."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._parts: list[str] = []
        self._kept = 0
        self.size = 0
        """Bytes that came in, as UTF-8 where they were text. Grows with each of them."""
        self.shown_size = 0
        """``size`` when the last output that is shown came in. Output that is held back or dropped is not shown."""
        self._cut = 0
        self._binary = 0
        self._type = ""
        self._is_text = True
        self._coding: Decoder | None = None
        self._coded = 0
        self._is_left = False
        self._is_unwanted: Callable[[str], bool] | None = None
        self._held: dict[int, str] = {}
        """The first text of a body that is not yet checked, by its index in ``_parts``."""
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
        """Decode as much as is kept. A small body may expand to any size: nothing is decoded beyond the limit."""
        self._coded += len(chunk)
        if self._is_left:
            with self._lock:
                self._count(len(chunk))
            return
        try:
            for piece in coding.decode(chunk):
                self._write_body(self._decode(piece))
                if self._is_dropped:
                    return
                if self._cut:
                    self._is_left = True
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
                self._held[len(self._parts)] = text
                self._parts.append("")
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
            held, self._held = self._held, {}
            if not held:  # or another thread of the job was first
                return
            self._is_dropped = is_unwanted("".join(held.values()))
            if not self._is_dropped:
                self.shown_size = max(self.shown_size, self._held_until)
                for index, text in held.items():
                    self._parts[index] = self._fit(clean_text(text))

    def write_text(self, text: str) -> None:
        """Take text."""
        if not text:
            return
        text = clean_text(text)
        with self._lock:
            self._count(len(text.encode()))
            text = self._fit(text)
            if text:
                self._parts.append(text)

    def _fit(self, text: str) -> str:
        """Return as much of a text as the limit leaves room for, and count the rest."""
        encoded = text.encode()
        room = self._limit - self._kept
        if self._cut or len(encoded) > room:
            # Cut at a whole character. Text after the first cut is only counted.
            text = "" if self._cut else encoded[:room].decode(errors="ignore")
            self._cut += len(encoded) - len(text.encode())
        self._kept += len(text.encode())
        return text

    def _count(self, size: int) -> None:
        self.size += size
        self.shown_size = self.size

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
        """All of it as one text, with a line for what is not shown.

        Without ``is_whole`` more is to come, and the line for what was cut has no count that would change each time.
        """
        with self._lock:
            text = "".join(self._parts)
            if not self._held:
                self._parts = [text]
            binary, cut = self._binary, self._cut
        if binary:
            text = append_line(text, f"[{binary} bytes of {self._type or 'binary output'}]")
        if cut:
            count = f"{cut} more bytes of output were" if is_whole and not self._is_left else "more output was"
            text = append_line(text, f"[{count} cut: max_output is {self._limit}]")
        return text


def clean_text(text: object) -> str:
    """The text as every database can keep it: no NUL and no lone surrogates. Of anything but text, its str()."""
    if not isinstance(text, str):
        text = str(text)
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def cut_text(text: object, limit: int) -> str:
    """At most so many bytes of UTF-8 of a text, cut at a whole character, and a line that tells of the rest."""
    text = clean_text(text)
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    kept = encoded[:limit].decode(errors="ignore")
    return append_line(kept, f"[{len(encoded) - len(kept.encode())} more bytes of text were cut]")


def first_line(text: object) -> str:
    """Return the first line of a text that is not empty, cut to what ``JobStatus.error`` may have."""
    lines = (line.strip() for line in clean_text(text).splitlines())
    return next(filter(None, lines), "")[:MOST_REASON]


def append_line(text: str, line: str) -> str:
    """The line below the text."""
    return f"{text}{_line_break(text)}{line}"


def _line_break(text: str) -> str:
    return "\n" if text and not text.endswith("\n") else ""


def _charset(content_type: str) -> str:
    try:
        charset = webob.Response(headerlist=[("Content-Type", content_type)]).charset or "utf-8"
        # Some codecs turn bytes into bytes; only text encodings can decode a response. (No codec is asked for nothing.)
        b"a".decode(charset, "replace")
    except UnicodeError:
        pass  # the byte alone is no text in it: the rest may be
    except (LookupError, ValueError, AssertionError):
        return "utf-8"
    return codecs.lookup(charset).name
