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

_MOST_HELD = 65536
_WITHOUT_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}  # as browsers read them

_MOST_HELD = 65536
"""Characters of a body that are held back at most. A debug page is recognized by text after the exception's message,
which may be long."""


class HeldText:
    """The text since a body began, held back until it is known whether that body is kept.

    ``is_refused`` is called once, with up to 64 K characters of the body or all of it.
    """

    def __init__(self, is_refused: Callable[[str], bool]) -> None:
        self._judge = is_refused
        self._pieces: list[tuple[bool, str]] = []
        self._length = 0
        self.is_holding = False
        self.is_judged = False
        self.is_refused = False

    def hold(self, text: str, *, is_body: bool) -> None:
        """Hold a piece of text back: of the body, or of what the job writes meanwhile."""
        self.is_holding = True
        self._pieces.append((is_body, text))
        self._length += len(text) if is_body else 0

    @property
    def is_long_enough(self) -> bool:
        """Is there enough of the body to judge it?"""
        return self._length >= _MOST_HELD

    def release(self) -> list[str]:
        """Judge the body. Return the pieces that are kept."""
        self.is_refused = self._judge("".join(text for is_body, text in self._pieces if is_body))
        kept = [text for is_body, text in self._pieces if not (is_body and self.is_refused)]
        self._pieces, self.is_holding, self.is_judged = [], False, True
        return kept


class Output:
    """The output of one run. ``limit`` is how many bytes of UTF-8 are kept. Several threads may write and read text."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._parts: list[str] = []
        self._kept = 0
        self.size = 0
        """Bytes that came in, as UTF-8 if they were text. Grows with all output that is shown."""
        self._cut = 0
        self._binary = 0
        self._type = ""
        self._is_text = True
        self._coding: Decoder | None = None
        self._coded = 0
        self._is_left = False
        self._body: HeldText | None = None
        self._charset = "utf-8"
        self._decoder: codecs.IncrementalDecoder = codecs.getincrementaldecoder("utf-8")("replace")

    def set_content_type(
        self, content_type: str, content_encoding: str = "", is_refused: Callable[[str], bool] | None = None
    ) -> None:
        """Say what the bytes that follow are, as the response's headers do.

        ``is_refused`` is asked with the beginning of their text whether all of it is left out.
        """
        self._body = HeldText(is_refused) if is_refused is not None else None
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
        if self._body is not None and self._body.is_refused:
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
        with self._lock:
            self._coded += len(chunk)
            if self._body is None or self._body.is_judged:
                self.size += len(chunk)
        if self._is_left:
            with self._lock:
                self._count(len(chunk))
            return
        try:
            for piece in coding.decode(chunk):
                self._write_body(self._decode(piece))
                if self._cut or (self._body is not None and self._body.is_refused):
                    self._is_left = True
                    return
        except ValueError:
            self._coding, self._is_text, self._type = None, False, "gzip" if coding.is_gzip else "deflate"
            with self._lock:
                self._binary = self._coded
                self.size += self._coded

    def _write_body(self, text: str, *, final: bool = False) -> None:
        with self._lock:
            body = self._body
            if body is None or body.is_judged:
                self._keep("" if body and body.is_refused else text)
                return
            if text:
                body.hold(text, is_body=True)
            if final or body.is_long_enough:
                for piece in body.release():
                    self._keep(piece)

    def write_text(self, text: str) -> None:
        """Take text of the job itself. It waits behind a body that is held back."""
        with self._lock:
            if self._body is not None and self._body.is_holding:
                self._body.hold(text, is_body=False)
            else:
                self._keep(text)

    def _keep(self, text: str) -> None:
        text = clean_text(text)
        encoded = text.encode()
        self.size += len(encoded)
        room = self._limit - self._kept
        if self._cut or len(encoded) > room:
            # Cut at a whole character; what comes after the first cut is only counted.
            text = "" if self._cut else encoded[:room].decode(errors="ignore")
            self._cut += len(encoded) - len(text.encode())
        if text:
            self._parts.append(text)
            self._kept += len(text.encode())

    def finish(self) -> None:
        """No more bytes come: a character that was left half is shown as such."""
        self._write_body(self._decode(b"", final=True), final=True)

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
