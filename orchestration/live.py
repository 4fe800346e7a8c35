"""The live path: committed events on their way from a run to those who watch it, within one process.

A `RunChannel` belongs to a run. A run of this process feeds its channel right after each commit; the channel of a run that lives
elsewhere is fed by `LiveRuns.poll`, one query a second for all of them. Nobody is ever handed an event that is not committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from uuid import UUID

from psycopg import Error as DatabaseError

from agentbackend.foundation.database import Database

logger = logging.getLogger(__name__)

MAX_BEHIND_BYTES = 256 * 1024
"""A reader further behind than this is taken off the live path and reads the log again."""

_TERMINAL_PREFIXES = (b'{"type":"RUN_FINISHED"', b'{"type":"RUN_ERROR"')


class Chunk:
    """Consecutive committed events of one run: `lines[i]` is the event numbered `seq_from + i`, as AG-UI 1.0 JSON."""

    __slots__ = ("_frames", "lines", "prefix", "seq_from", "size")

    def __init__(self, public_id: str, seq_from: int, lines: list[bytes]) -> None:
        self.prefix = b"id: " + public_id.encode("ascii") + b"."
        self.seq_from = seq_from
        self.lines = lines
        self.size = sum(map(len, lines))
        self._frames: bytes | None = None

    @property
    def seq_to(self) -> int:
        """Number of the last event."""
        return self.seq_from + len(self.lines) - 1

    @property
    def is_final(self) -> bool:
        """Whether the run's terminal event is the last one here."""
        return self.lines[-1].startswith(_TERMINAL_PREFIXES)

    def frames(self) -> bytes:
        """The events as SSE frames with their ids, made once for all readers."""
        if self._frames is None:
            self._frames = b"".join(self.frame(seq, line) for seq, line in enumerate(self.lines, self.seq_from))
        return self._frames

    def frame(self, seq: int, line: bytes) -> bytes:
        """One event as an SSE frame."""
        return b"%b%d\ndata: %b\n\n" % (self.prefix, seq, line)

    def after(self, seq: int) -> Chunk | None:
        """The part of the chunk beyond `seq`, or None when there is none."""
        if seq < self.seq_from:
            return self
        if seq >= self.seq_to:
            return None
        rest = Chunk.__new__(Chunk)
        rest.prefix, rest.seq_from, rest.lines = self.prefix, seq + 1, self.lines[seq + 1 - self.seq_from :]
        rest.size, rest._frames = sum(map(len, rest.lines)), None
        return rest


class Subscription:
    """One reader's queue of chunks. It is bounded: a reader that falls behind loses the queue and is told so."""

    __slots__ = ("_behind", "_chunks", "_heartbeat_due", "_size", "_waiter")

    def __init__(self) -> None:
        self._heartbeat_due = False
        self._chunks: deque[Chunk] = deque()
        self._size = 0
        self._behind = False
        self._waiter: asyncio.Future[None] | None = None

    def push(self, chunk: Chunk) -> None:
        """Queue a chunk and wake the reader."""
        if not self._behind:
            self._chunks.append(chunk)
            self._size += chunk.size
            if self._size > MAX_BEHIND_BYTES and len(self._chunks) > 1:
                self._chunks.clear()
                self._size = 0
                self._behind = True
        self.wake()

    def wake(self) -> None:
        """Make the reader look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def beat(self) -> None:
        """Ask the reader for a heartbeat, so that proxies keep the connection."""
        self._heartbeat_due = True
        self.wake()

    def take_heartbeat(self) -> bool:
        """Whether a heartbeat is due; asked for once."""
        due, self._heartbeat_due = self._heartbeat_due, False
        return due

    async def wait(self) -> None:
        """Wait until something is queued or `wake` is called; returns at once when something is."""
        if self._chunks or self._behind or self._heartbeat_due:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> tuple[list[Chunk], bool]:
        """All that is queued, and whether chunks were dropped since the last call (then read the log again)."""
        chunks, behind = list(self._chunks), self._behind
        self._chunks.clear()
        self._size, self._behind = 0, False
        return chunks, behind


class RunChannel:
    """The readers of one run in this process."""

    __slots__ = ("cursor", "local", "public_id", "run_id", "subscriptions")

    def __init__(self, run_id: UUID, public_id: str, *, local: bool) -> None:
        self.run_id = run_id
        self.public_id = public_id
        self.local = local
        self.cursor = 0
        self.subscriptions: set[Subscription] = set()

    def publish(self, chunk: Chunk) -> None:
        """Hand a committed chunk to every reader."""
        self.cursor = max(self.cursor, chunk.seq_to)
        for subscription in self.subscriptions:
            subscription.push(chunk)


class LiveRuns:
    """The channels of this process."""

    def __init__(self, database: Database, *, poll_seconds: float = 1.0) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._channels: dict[UUID, RunChannel] = {}
        self.interrupted = False

    def open_local(self, run_id: UUID, public_id: str) -> RunChannel:
        """The channel of a run that this process holds; readers that watched it from afar stay."""
        channel = self._channels.setdefault(run_id, RunChannel(run_id, public_id, local=True))
        channel.local = True
        return channel

    def close_local(self, run_id: UUID) -> None:
        """The run no longer lives here: its readers, if any, go on by polling."""
        channel = self._channels.get(run_id)
        if channel is None:
            return
        channel.local = False
        if not channel.subscriptions:
            del self._channels[run_id]

    def subscribe(self, run_id: UUID, public_id: str) -> Subscription:
        """Begin to watch a run; call before reading its log, so that nothing falls between."""
        channel = self._channels.setdefault(run_id, RunChannel(run_id, public_id, local=False))
        subscription = Subscription()
        channel.subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, run_id: UUID, subscription: Subscription) -> None:
        """Stop watching."""
        channel = self._channels.get(run_id)
        if channel is None:
            return
        channel.subscriptions.discard(subscription)
        if not channel.subscriptions and not channel.local:
            del self._channels[run_id]

    @property
    def readers(self) -> int:
        """How many readers watch runs in this process."""
        return sum(len(channel.subscriptions) for channel in self._channels.values())

    def note_cursor(self, run_id: UUID, cursor: int) -> None:
        """The only reader has read the log up to `cursor`: polling need not fetch that again.

        With several readers it must: another one may have read the log before its last events were there.
        """
        channel = self._channels.get(run_id)
        if channel is not None and len(channel.subscriptions) == 1:
            channel.cursor = max(channel.cursor, cursor)

    def interrupt(self) -> None:
        """End every reader's connection (the process shuts down); their runs go on elsewhere."""
        self.interrupted = True
        for subscription in self._all():
            subscription.wake()

    async def beat_forever(self, seconds: float) -> None:
        """One timer for the heartbeats of all readers."""
        while True:
            await asyncio.sleep(seconds)
            for subscription in self._all():
                subscription.beat()

    def _all(self) -> list[Subscription]:
        return [subscription for channel in self._channels.values() for subscription in channel.subscriptions]

    async def poll_forever(self) -> None:
        """Feed the channels of runs that live elsewhere: one query a second for all of them."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.poll()
            except (DatabaseError, OSError, TimeoutError):
                logger.warning("could not look for the events of runs in other processes")
            except Exception:  # this loop feeds every reader of runs elsewhere: it must outlive any fault
                logger.exception("could not look for the events of runs in other processes")

    async def poll(self) -> None:
        """Read what other processes committed for the runs watched here."""
        foreign = [channel for channel in self._channels.values() if not channel.local and channel.subscriptions]
        if not foreign:
            return
        rows = await self._database.fetch_all(
            "SELECT e.run_id, e.seq_from, e.events FROM orchestration_runevents AS e "
            "JOIN unnest(%s::uuid[], %s::bigint[]) AS w(run_id, cursor) ON e.run_id = w.run_id AND e.seq_to > w.cursor "
            "ORDER BY e.run_id, e.seq_from",
            ([channel.run_id for channel in foreign], [channel.cursor for channel in foreign]),
        )
        self._publish(rows)

    def _publish(self, rows: Iterable[tuple[UUID, int, bytes]]) -> None:
        for run_id, seq_from, events in rows:
            channel = self._channels.get(run_id)
            if channel is None or channel.local:
                continue
            chunk = Chunk(channel.public_id, seq_from, bytes(events).split(b"\n")).after(channel.cursor)
            if chunk is not None:
                channel.publish(chunk)
