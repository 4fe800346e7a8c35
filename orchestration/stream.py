"""Following a run: what the log already holds after a cursor, then the live tail, until the terminal event.

The promise to a reader: after its cursor every committed event, ascending, without a gap. It subscribes before it reads the log; what
it finds in both is sent once; a hole or a dropped queue sends it back to the log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from agentbackend.foundation.database import Database
from orchestration.dialects import Dialect
from orchestration.live import Chunk, LiveRuns, Subscription
from orchestration.store import read_events

HEARTBEAT = b": heartbeat\n\n"


class RunFollower:
    """One reader of one run. Iterating gives pieces of an SSE body."""

    def __init__(
        self,
        live: LiveRuns,
        database: Database,
        dialect: Dialect,
        *,
        run_id: UUID,
        public_id: str,
        after: int = 0,
        log_is_empty: bool = False,
    ) -> None:
        self._live = live
        self._database = database
        self._dialect = dialect
        self._run_id = run_id
        self._public_id = public_id
        self._after = after
        self._cursor = 0 if dialect.needs_whole_log else after
        self._read_log = not log_is_empty
        self._subscription: Subscription = live.subscribe(run_id, public_id)
        self._ended = False
        # Headers go out with the first bytes, so a reader who may wait long for those is sent a heartbeat at once.
        self._greets = dialect.needs_whole_log or not log_is_empty

    def has_ended(self) -> bool:
        """Whether the run's terminal event was handed out."""
        return self._ended

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while not self.has_ended():
                if self._read_log:
                    async for piece in self._from_log():
                        yield piece
                    continue
                piece = self._from_queue()
                if piece:
                    yield piece
                if self.has_ended() or self._read_log:
                    continue
                if self._live.interrupted:
                    yield self._dialect.error_frame(
                        "stream_interrupted", "This connection ends; the run goes on. Resume with the last event's id."
                    )
                    return
                if self._subscription.log_end is not None:
                    async for piece in self._to_the_end(self._subscription.log_end):
                        yield piece
                    return
                if self._subscription.take_heartbeat() or self._greets:
                    self._greets = False
                    yield HEARTBEAT
                    continue
                await self._subscription.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Stop watching; safe to call twice."""
        self._live.unsubscribe(self._run_id, self._subscription)

    async def _from_log(self) -> AsyncIterator[bytes]:
        while not self.has_ended():
            rows = await read_events(self._database, self._run_id, self._cursor)
            if not rows:
                break
            for seq_from, events in rows:
                piece = self._take(Chunk(self._public_id, seq_from, events.split(b"\n")))
                if piece:
                    yield piece
            self._live.note_cursor(self._run_id, self._cursor)
        self._read_log = False

    async def _to_the_end(self, log_end: int) -> AsyncIterator[bytes]:
        """The run's row says that it has ended with event `log_end`: what the log still holds, or that it lacks something."""
        async for piece in self._from_log():
            yield piece
        if not self.has_ended() and self._cursor < log_end:
            yield self._dialect.error_frame("stream_interrupted", "The events of this run are no longer kept.")

    def _from_queue(self) -> bytes:
        chunks, dropped = self._subscription.take()
        if dropped:
            self._read_log = True
            return b""
        pieces: list[bytes] = []
        for chunk in chunks:
            if chunk.seq_from > self._cursor + 1:
                self._read_log = True
                break
            pieces.append(self._take(chunk))
        return b"".join(pieces)

    def _take(self, chunk: Chunk) -> bytes:
        rest = chunk.after(self._cursor)
        if rest is None:
            self._ended = self._ended or chunk.is_final  # a cursor beyond the end
            return b""
        self._cursor = rest.seq_to
        self._ended = rest.is_final
        return self._dialect.frames(rest, self._after)
