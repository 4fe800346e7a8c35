"""A PostgreSQL server's socket at second hand: it passes everything on until it is told to cut the line at a COMMIT."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self


class BreakingProxy:
    """Listens on a Unix socket of its own and forwards to the server's."""

    port = 5432

    def __init__(self, upstream_directory: str, upstream_port: int) -> None:
        self._upstream = Path(upstream_directory) / f".s.PGSQL.{upstream_port}"
        self._folder = tempfile.TemporaryDirectory(prefix="pgproxy")
        self._armed: bool | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts = 0

    @property
    def directory(self) -> str:
        """The socket's directory, libpq's `host`."""
        return self._folder.name

    def cut_at_commit(self, *, let_it_through: bool) -> None:
        """Break the connection of the next COMMIT, before or after the server has carried it out."""
        self._armed = let_it_through

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, Path(self.directory) / f".s.PGSQL.{self.port}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._folder.cleanup()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        answers = asyncio.ensure_future(self._copy(up_reader, writer))
        try:
            while data := await reader.read(65536):
                if self._armed is not None and b"COMMIT" in data.upper():
                    await self._cut(data, answers, up_reader, up_writer)
                    return
                up_writer.write(data)
                await up_writer.drain()
        finally:
            answers.cancel()
            for end in (writer, up_writer):
                with contextlib.suppress(OSError):
                    end.close()
            self._tasks.discard(task)

    async def _cut(
        self,
        data: bytes,
        answers: asyncio.Future[None],
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        let_it_through, self._armed = self._armed, None
        self.cuts += 1
        answers.cancel()
        await asyncio.gather(answers, return_exceptions=True)
        if let_it_through:
            up_writer.write(data)
            await up_writer.drain()
            received = b""
            while b"COMMIT\x00" not in received:  # the server's CommandComplete
                received += await up_reader.read(65536)

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
