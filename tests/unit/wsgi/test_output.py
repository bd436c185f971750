"""A job's output: any charset, cut at any byte, reads as the whole does; binary is summed up; the limit is kept."""

from __future__ import annotations

import encodings.aliases
import itertools
import re
import threading
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backjob.model.text import append_line, clean_text
from backjob.wsgi.output import Output
from backjob.wsgi.tail import Tail

LIMIT = 1_000_000
CHARSETS = [
    *("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "ascii", "latin-1", "cp1252"),
    *("koi8-r", "shift_jis", "euc-jp", "iso-2022-jp", "euc-kr", "gb18030", "big5", "hz", "cp037"),
]
CODECS = sorted(
    {*encodings.aliases.aliases.values(), "idna", "punycode", "undefined", "unicode_escape", "no-such-thing"}
)

places = st.lists(st.integers(0, 1000), max_size=6)
no_escapes = st.characters(exclude_characters="\x1b~")  # ISO-2022-JP and HZ can't tell a text's own from theirs
pieces = st.lists(st.text(max_size=30), max_size=8)
lines = st.text(st.sampled_from("aé🐔\n"), max_size=30)


def parse_cut(shown: str, limit: int) -> tuple[int, str]:
    """The number of bytes in the line for what was cut, and the text after it."""
    found = re.fullmatch(r"\[(\d+) bytes of earlier output were cut: max_output is (\d+)\]\n(.*)", shown, re.DOTALL)
    assert found is not None, shown
    assert int(found[2]) == limit
    return int(found[1]), found[3]


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    """The bytes in pieces, cut at these places."""
    bounds = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    return [raw[begin:end] for begin, end in itertools.pairwise(bounds)]


def see(text: str) -> str:
    """Return a text as a terminal of endless size shows it, if "cursor up" goes to the beginning of a line."""
    rows, row, column = [""], 0, 0
    text = re.sub(r"\x1b(\[\d{0,3})?\Z", "", text)
    for token in re.findall(r"\x1b\[[02]?K|\x1b\[\d{0,3}A|[\n\r\x1b]|[^\n\r\x1b]+", text):
        if token in ("\n", "\r"):
            row, column = row + (token == "\n"), 0
            rows += [""] * (row == len(rows))
        elif re.fullmatch(r"\x1b.+A", token):
            row, column = max(row - max(int(token[2:-1] or 1), 1), 0), 0 if row else column
        elif re.fullmatch(r"\x1b.+", token):
            column = 0 if "2" in token else column
            rows[row] = rows[row][:column]
        else:
            rows[row] = rows[row][:column] + token + rows[row][column + len(token) :]
            column += len(token)
    return trim("\n".join(rows))


def trim(text: str) -> str:
    """Return a text without the spaces at the end of its lines, which a terminal doesn't show."""
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


def read(chunks: list[bytes], content_type: str, *, limit: int = LIMIT, content_encoding: str = "") -> str:
    output = Output(limit)
    output.set_content_type(content_type, content_encoding)
    for chunk in chunks:
        output.write_bytes(chunk)
    output.finish()
    return output.text()


class TestCharsets:
    @pytest.mark.parametrize("charset", CHARSETS)
    @given(text=st.text(no_escapes, max_size=40), places=places)
    def test_cut_at_any_byte_it_reads_as_the_whole_does(self, charset: str, text: str, places: list[int]) -> None:
        raw = text.encode(charset, "ignore")
        expected = see(clean_text(raw.decode(charset)))
        assert trim(read(cut(raw, places), f"text/plain; charset={charset}")) == expected
        assert trim(read([raw[i : i + 1] for i in range(len(raw))], f"text/plain; charset={charset}")) == expected

    @given(raw=st.binary(max_size=60), places=places)
    def test_what_is_no_utf8_is_replaced(self, raw: bytes, places: list[int]) -> None:
        assert trim(read(cut(raw, places), "text/plain")) == see(clean_text(raw.decode("utf-8", "replace")))

    @pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # told by unicode_escape itself
    @pytest.mark.parametrize("charset", CODECS)
    def test_no_charset_makes_output_raise(self, charset: str) -> None:
        for raw in (b"", b"plain", b"\xff\xfe\x00\x80", bytes(range(256)), "größe".encode()):
            for chunks in ([raw], cut(raw, list(range(len(raw))))):
                assert isinstance(read(chunks, f"text/plain; charset={charset}"), str)

    @pytest.mark.parametrize("charset", ["no-such-thing", "", "base64", "hex", "rot13", "zlib", "undefined", "x" * 500])
    def test_an_unknown_charset_is_taken_as_utf8(self, charset: str) -> None:
        assert read(["größe".encode()], f"text/plain; charset={charset}") == "größe"

    @pytest.mark.parametrize(("charset", "codec"), [("utf-16", "utf-16-le"), ("utf-32", "utf-32-le")])
    def test_utf16_may_lack_its_mark(self, charset: str, codec: str) -> None:
        raw = "größe".encode(codec)
        assert read(cut(raw, [1, 3]), f"text/plain; charset={charset}") == "größe"

    @pytest.mark.parametrize(
        "content_type",
        [
            'text/plain; charset="latin-1"',
            "TEXT/HTML;CHARSET=ISO-8859-1",
            "text/html; a=b; charset=latin1; c=d",
            "application/json; charset=latin-1",
        ],
    )
    def test_a_charset_is_found_as_headers_have_it(self, content_type: str) -> None:
        assert read(["größe".encode("latin-1")], content_type) == "größe"

    @pytest.mark.parametrize("content_type", ["\0", "text/plain; charset", 'text/plain; charset="', ";;;", "é", "text"])
    def test_a_strange_content_type_does_no_harm(self, content_type: str) -> None:
        assert isinstance(read([b"abc"], content_type), str)

    def test_a_second_response_has_a_charset_of_its_own(self) -> None:
        output = Output(LIMIT)
        output.set_content_type("text/plain; charset=latin-1")
        output.write_bytes(b"\xf6")
        output.set_content_type("text/plain; charset=utf-8")
        output.write_bytes("ß".encode())
        assert output.text() == "öß"

    def test_a_character_that_is_left_half_is_shown_as_such(self) -> None:
        assert read(["größe".encode()[:3]], "text/plain") == "gr\ufffd"


class TestBinary:
    @pytest.mark.parametrize(
        ("content_type", "content_encoding", "line"),
        [
            ("image/png", "", "[300 bytes of image/png]"),
            ("Image/PNG; x=y", "", "[300 bytes of image/png]"),
            ("application/octet-stream", "", "[300 bytes of application/octet-stream]"),
            ("application/pdf", "identity", "[300 bytes of application/pdf]"),
            ("text/html; charset=utf-8", "gzip", "[300 bytes of gzip]"),
            ("text/html", " BR ", "[300 bytes of br]"),
            ("text/csv", "gzip, gzip", "[300 bytes of gzip, gzip]"),
            ("image/svg+xml", "deflate", "[300 bytes of deflate]"),
            ("application/pdf", "gzip", "[300 bytes of application/pdf]"),
        ],
    )
    def test_is_summed_up(self, content_type: str, content_encoding: str, line: str) -> None:
        assert read([b"\x89\0"] * 150, content_type, content_encoding=content_encoding) == line

    def test_is_not_limited_by_max_output(self) -> None:
        assert read([b"x" * 100] * 3, "image/png", limit=10) == "[300 bytes of image/png]"

    @pytest.mark.parametrize(
        "content_type",
        [
            *("", "text/csv", "application/json", "application/xml", "application/problem+json", "image/svg+xml"),
            *(
                "application/javascript",
                "application/x-ndjson",
                "application/x-www-form-urlencoded",
                "text/x; charset=utf-8",
            ),
        ],
    )
    def test_text_is_no_binary(self, content_type: str) -> None:
        assert read([b"abc"], content_type, content_encoding="identity") == "abc"

    def test_text_that_was_written_stands_before_it(self) -> None:
        output = Output(LIMIT)
        output.write_text("sent:")
        output.set_content_type("image/png")
        output.write_bytes(b"x" * 7)
        output.write_text("\nmore")
        assert output.text() == "sent:\nmore\n[7 bytes of image/png]"
        assert output.size == 5 + 7 + 5


class TestLimit:
    @given(st.lists(st.tuples(lines, st.booleans()), max_size=12), st.integers(0, 60))
    def test_the_end_is_kept_and_the_rest_is_counted(self, texts: list[tuple[str, bool]], limit: int) -> None:
        """However often it is read meanwhile; on whole characters, and on whole lines unless one is very long."""
        output = Output(limit)
        for text, is_read in texts:
            output.write_text(text)
            if is_read:
                output.text()
        whole = clean_text("".join(text for text, _ in texts))
        shown = output.text()
        if shown != whole:
            cut_off, kept = parse_cut(shown, limit)
            assert whole.encode()[cut_off:] == kept.encode()
            assert len(kept.encode()) <= limit
            most_lost = max([len(line.encode()) for line in whole.splitlines(keepends=True)])
            assert len(kept.encode()) >= min(limit * 7 // 8 - most_lost, limit * 7 // 16 - 3)
            is_line = whole.encode()[:cut_off].endswith(b"\n")
            assert is_line or "\n" not in kept[: max(len(kept) // 2 - 4, 0)]
            assert len(whole.encode()) > limit
        assert output.size == len(whole.encode())

    def test_little_more_than_the_limit_is_in_memory(self) -> None:
        """Whatever the output is: lines, one endless line, a line that is overwritten without end."""
        pieces = ["0123456789\n" * 10, "x" * 100, "\r" + "x" * 100, "x" * 1_000_000]
        tracemalloc.start()
        try:
            for piece in pieces:
                output = Output(100_000)
                for _ in range(10_000 if len(piece) < 1000 else 10):
                    output.write_text(piece)
                assert tracemalloc.get_traced_memory()[0] < 400_000
                assert len(output.text()) <= 100_100
        finally:
            tracemalloc.stop()

    @given(pieces, st.integers(0, 60))
    def test_bytes_are_limited_alike(self, texts: list[str], limit: int) -> None:
        output = Output(limit)
        for text in texts:
            output.write_text(text)
        assert read([text.encode() for text in texts], "text/plain", limit=limit) == output.text()

    def test_the_limit_is_one_of_utf8(self) -> None:
        assert read(["ööö".encode("latin-1")], "text/plain; charset=latin-1", limit=6) == "ööö"
        assert read(["ööö".encode("latin-1")], "text/plain; charset=latin-1", limit=5).endswith("]\nöö")

    def test_endless_output_is_not_kept(self) -> None:
        output = Output(100)
        for _ in range(10_000):
            output.write_bytes(b"0123456789")
        assert len(output.text()) < 200
        assert output.text().startswith("[999")


TOKENS = ["a", "bc\n", "\r", "\n", "\r\n", "long line", "é", " ", "\x1b", "[", "K", "2K", "A"]
TOKENS += ["\r\x1b[K", "\x1b[A", "\x1b[2A"]
PIECES = ["a", " b", "c\n", "\n", "\rx", "\x1b[", "K", "d\ne\nf"]


class TestTerminal:
    @given(st.lists(st.sampled_from(TOKENS), max_size=30), places)
    @example(["reading 100\r", "\x1b[", "K", "done"], [])
    @example(["name,price\r", "\n", "tea,3\r\n"], [])
    @example(["outer\n", "\rinner", "\x1b[A", "\router 2", "\n", "\rinner 2", "\x1b[A", "\n\n", "done\n"], [])
    def test_a_text_looks_as_in_a_terminal(self, texts: list[str], places: list[int]) -> None:
        """However it is cut."""
        for pieces in (texts, [piece.decode() for piece in cut("".join(texts).replace("é", "e").encode(), places)]):
            output = Output(LIMIT)
            for text in pieces:
                output.write_text(text)
            assert trim(output.text()) == see("".join(pieces))

    def test_the_cursor_goes_up_within_the_screen(self) -> None:
        output = Output(LIMIT)
        output.write_text("line\n" * 100 + "\x1b[999A" + "LINE\n")
        assert output.text().split("\n").index("LINE") == 50


class TestWriters:
    """Tail by itself: its writers are numbers here, in a job they are threads and greenlets."""

    @given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(PIECES))))
    def test_each_line_is_of_one_writer(self, writes: list[tuple[int, str]]) -> None:
        tail, whole = Tail(LIMIT), []
        for writer, text in writes:
            tail.write(text, writer)
        for writer in range(4):
            whole += see("".join(text for each, text in writes if each == writer)).split("\n")
        shown = trim(tail.read()[0]).split("\n")
        assert sorted(filter(None, shown)) == sorted(filter(None, whole))

    def test_a_long_line_is_no_part_of_anothers(self) -> None:
        tail = Tail(LIMIT)
        for writer, text in ((1, "x" * 20_000), (2, "two"), (1, "xx"), (2, "\n"), (1, "\n"), (2, "three")):
            tail.write(text, writer)
        assert tail.read()[0] == "x" * 20_000 + "\ntwo\nxx\nthree"

    def test_many_writers_need_little_memory(self) -> None:
        """Threads that end within a line leave it behind."""
        tracemalloc.start()
        try:
            tail = Tail(100_000)
            for writer in range(3000):
                tail.write("x" * (1 + writer % 2 * 3000), writer)
            assert tracemalloc.get_traced_memory()[0] < 400_000
        finally:
            tracemalloc.stop()
        assert len(tail.read()[0]) <= 100_000

    def test_an_unfinished_line_is_hidden_by_itself(self) -> None:
        output = Output(LIMIT)
        thread = threading.Thread(target=output.write_text, args=("Working",))
        thread.start()
        thread.join()
        output.show_line()
        output.write_text("a whole line\nand a half")
        assert output.text(is_whole=False) == "a whole line\nWorking"
        output.write_text(" line\n")
        assert output.text(is_whole=False) == "a whole line\nand a half line\nWorking"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain", "plain"),
        ("größe \U0001f600", "größe \U0001f600"),
        ("a\0b", "a\ufffdb"),
        ("a\ud800b", "a?b"),
        ("\udcff\0", "?\ufffd"),
        ("tab\t\n", "tab\t\n"),
        ("", ""),
    ],
)
def test_text_is_cleaned_for_every_database(text: str, cleaned: str) -> None:
    output = Output(LIMIT)
    output.write_text(text)
    assert output.text() == clean_text(text) == cleaned
    cleaned.encode()


@pytest.mark.parametrize(("text", "joined"), [("", "x"), ("a", "a\nx"), ("a\n", "a\nx"), ("a\n\n", "a\n\nx")])
def test_a_line_is_appended_below(text: str, joined: str) -> None:
    assert append_line(text, "x") == joined
