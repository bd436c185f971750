"""Content codings (RFC 9110, section 8.4.1): gzip and deflate, decoded piece by piece.

Bytes in, bytes out. The pieces are small, so that the caller can stop at its limit whatever the input expands to.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_LONGEST_PIECE = 65536
_GZIP = 16 + zlib.MAX_WBITS


class Decoder:
    """Decodes one body of this coding."""

    def __init__(self, coding: str) -> None:
        self.is_gzip = coding != "deflate"
        self._begin = b""
        self._decompress = zlib.decompressobj(_GZIP) if self.is_gzip else None

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what this chunk decodes to. Raises ValueError for what is not of this coding."""
        if self._decompress is None:
            self._begin += chunk
            if len(self._begin) < 2:
                return
            chunk, self._decompress = self._begin, zlib.decompressobj(_find_window(self._begin))
        try:
            while chunk:
                if self._decompress.eof:
                    if not self.is_gzip or not chunk.lstrip(b"\0"):
                        return  # padding
                    self._decompress = zlib.decompressobj(_GZIP)  # a gzip body may have several members
                yield self._decompress.decompress(chunk, _LONGEST_PIECE)
                chunk = self._decompress.unconsumed_tail or self._decompress.unused_data
        except zlib.error as error:
            raise ValueError(str(error)) from None


def _find_window(begin: bytes) -> int:
    """Return zlib's window bits: deflate is meant to have a zlib header (RFC 1950), but often it is missing."""
    has_header = begin[0] & 0x0F == 8 and int.from_bytes(begin[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
