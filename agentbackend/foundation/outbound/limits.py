"""Bounds on answers: size while they are read, compression undone under the bound, time for the whole."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any, Protocol

from agentbackend.foundation.outbound.errors import OutboundRefusedError, OutboundTooLargeError

Headers = list[tuple[bytes, bytes]]

ACCEPT_ENCODING = "gzip, deflate"
_INFLATED_PART = 64 * 1024
_WINDOWS = {b"gzip": zlib.MAX_WBITS | 16, b"x-gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}


class Streamed(Protocol):
    """A response of httpx or httpx2 that was opened with `stream=True`."""

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The body, part by part."""
        ...

    async def aclose(self) -> None:
        """Give the connection back."""
        ...


async def read_bounded(response: Streamed, limit: int) -> bytes:
    """The body of a streamed response, at most `limit` bytes; raises OutboundTooLargeError.

    Closes the response.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async for part in response.aiter_bytes():
            size += len(part)
            if size > limit:
                raise OutboundTooLargeError(f"the answer has more than {limit} bytes")
            parts.append(part)
    finally:
        await response.aclose()
    return b"".join(parts)


def split_encoding(headers: Headers) -> tuple[Headers, bytes]:
    """The headers as they are after decompression, and the compression to undo (empty: none).

    Raises OutboundRefusedError for compressions that cannot be undone under a bound, or several on top of
    each other.
    """
    encodings = [value.strip().lower() for name, value in headers if name.lower() == b"content-encoding"]
    encoding = b",".join(encodings)
    if encoding in (b"", b"identity"):
        return headers, b""
    if encoding not in _WINDOWS:
        raise OutboundRefusedError("the answer is compressed in a way that was not asked for")
    dropped = (b"content-encoding", b"content-length")
    return [(name, value) for name, value in headers if name.lower() not in dropped], encoding


async def bounded_body(parts: AsyncIterable[bytes], encoding: bytes, limit: int | None) -> AsyncIterator[bytes]:
    """The decompressed body.

    Raises OutboundTooLargeError once more than `limit` bytes came (None: no bound).
    """
    size = 0
    async for part in _decompressed(parts, encoding):
        size += len(part)
        if limit is not None and size > limit:
            raise OutboundTooLargeError(f"the answer has more than {limit} bytes")
        yield part


async def _decompressed(parts: AsyncIterable[bytes], encoding: bytes) -> AsyncIterator[bytes]:
    if not encoding:
        async for part in parts:
            yield part
        return
    inflater: Any = None
    async for part in parts:
        if not part:
            continue
        inflater = inflater or zlib.decompressobj(_window(encoding, part))
        for piece in _inflate(inflater, part):
            yield piece


def _window(encoding: bytes, first: bytes) -> int:
    """`deflate` means zlib's format, but some servers send the bare stream.

    The first byte tells them apart.
    """
    if encoding == b"deflate" and first[0] & 0x0F != 8:
        return -zlib.MAX_WBITS
    return _WINDOWS[encoding]


def _inflate(inflater: Any, part: bytes) -> Iterator[bytes]:
    """Inflate in pieces of bounded size, so that a small part cannot fill the memory before it is counted."""
    rest, full = part, False
    while (rest or full) and not inflater.eof:
        try:
            piece = inflater.decompress(rest, _INFLATED_PART)
        except zlib.error:
            raise OutboundRefusedError("the answer's compression is broken") from None
        rest, full = inflater.unconsumed_tail, len(piece) == _INFLATED_PART
        if piece:
            yield piece
