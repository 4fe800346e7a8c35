"""The live path: committed events on their way from a run to those who watch it, within one process.

A `RunChannel` belongs to a run. A run of this process feeds its channel right after each commit; the channel of a run that lives
elsewhere is fed from the log: at once when a doorbell rings for it (orchestration.doorbell), and in any case by one query a second
for all of them. The same round looks for requests to cancel the runs of this process. Nobody is ever handed an event that is not
committed.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from uuid import UUID

from psycopg import Error as DatabaseError

from agentbackend.foundation.database import Database
from orchestration.doorbell import Doorbell

logger = logging.getLogger(__name__)

MAX_BEHIND_BYTES = 256 * 1024
"""A reader further behind than this is taken off the live path and reads the log again."""

POLL_SECONDS = 0.8
"""Below one, so that with its query a round is over within the second."""
_POLL_GAP_SECONDS = 0.01
"""However often doorbells ring, rounds are this far apart."""
NO_RUN = sys.maxsize
"""The end of the log of a run that does not exist any more: beyond every cursor."""

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

    __slots__ = ("_behind", "_chunks", "_heartbeat_due", "_size", "_waiter", "log_end")

    def __init__(self) -> None:
        self.log_end: int | None = None
        """Set once the run's row says that it has ended (or is gone): the number of its last event."""
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

    def end(self, log_end: int) -> None:
        """The run has ended, with this event (`NO_RUN`: it was removed): the reader need not wait for more."""
        self.log_end = log_end
        self.wake()

    def take_heartbeat(self) -> bool:
        """Whether a heartbeat is due; asked for once."""
        due, self._heartbeat_due = self._heartbeat_due, False
        return due

    async def wait(self) -> None:
        """Wait until something is queued or `wake` is called; returns at once when something is."""
        if self._chunks or self._behind or self._heartbeat_due or self.log_end is not None:
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
    """The readers of one run in this process. `local`: the run is carried out here."""

    __slots__ = ("_ring", "cursor", "local", "public_id", "run_id", "subscriptions")

    def __init__(self, run_id: UUID, public_id: str, *, ring: Callable[[UUID, int], None], local: bool) -> None:
        self.run_id = run_id
        self.public_id = public_id
        self.local = local
        self.cursor = 0
        self.subscriptions: set[Subscription] = set()
        self._ring = ring

    def publish(self, chunk: Chunk) -> None:
        """Hand a committed chunk to every reader; those in other processes are rung for."""
        self.cursor = max(self.cursor, chunk.seq_to)
        for subscription in self.subscriptions:
            subscription.push(chunk)
        if self.local:
            self._ring(self.run_id, chunk.seq_to)

    def end(self, log_end: int) -> None:
        """Tell every reader that the run has ended."""
        for subscription in self.subscriptions:
            subscription.end(log_end)


class LiveRuns:
    """The channels of this process."""

    def __init__(
        self, database: Database, doorbell: Doorbell | None = None, *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self.interrupted = False
        self.on_cancel: Callable[[UUID], object] = _ignore
        """Called with each run of this process whose cancellation was asked for, perhaps again and again."""
        self._database = database
        self._poll_seconds = poll_seconds
        self._channels: dict[UUID, RunChannel] = {}
        self._rung: set[UUID] = set()
        self._rung_to_cancel = False
        self._bell = asyncio.Event()
        self._doorbell = doorbell or Doorbell(None)
        self._doorbell.on_committed = self.committed_elsewhere
        self._doorbell.on_cancelled = self.cancelled_elsewhere
        self._doorbell.watched_here = self.watched_elsewhere

    def open_local(self, run_id: UUID, public_id: str) -> RunChannel:
        """The channel of a run that this process holds; readers that watched it from afar stay."""
        channel = self._channel(run_id, public_id)
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
        else:
            self._doorbell.watch(run_id)

    def subscribe(self, run_id: UUID, public_id: str) -> Subscription:
        """Begin to watch a run; call before reading its log, so that nothing falls between."""
        channel = self._channel(run_id, public_id)
        subscription = Subscription()
        channel.subscriptions.add(subscription)
        if not channel.local:
            self._doorbell.watch(run_id)
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

    def _channel(self, run_id: UUID, public_id: str) -> RunChannel:
        channel = self._channels.get(run_id)
        if channel is None:
            channel = RunChannel(run_id, public_id, ring=self._doorbell.ring, local=False)
            self._channels[run_id] = channel
        return channel

    def _all(self) -> list[Subscription]:
        return [subscription for channel in self._channels.values() for subscription in channel.subscriptions]

    def _foreign(self) -> list[RunChannel]:
        return [channel for channel in self._channels.values() if not channel.local and channel.subscriptions]

    async def others_carry_out_runs(self) -> bool:
        """Whether another process seems to hold runs; asked before this one holds any."""
        row = await self._database.fetch_one(
            "SELECT EXISTS (SELECT FROM orchestration_run WHERE status = 'running' AND lease_expires_at > now())"
        )
        return row is not None and bool(row[0])

    # --- heartbeats, and the ends that nothing else tells

    async def beat_forever(self, seconds: float) -> None:
        """One timer for all readers: a heartbeat for each, and a look at the rows of their runs."""
        while True:
            await asyncio.sleep(seconds)
            for subscription in self._all():
                subscription.beat()
            await _unharmed(self.look_for_ends(), "could not look how runs in other processes stand")

    async def look_for_ends(self) -> None:
        """Tell readers of runs that have ended elsewhere or are gone: their log may never show it (it was removed)."""
        foreign = self._foreign()
        if not foreign:
            return
        rows = await self._database.fetch_all(
            "SELECT id, last_seq, status IN ('queued', 'running') FROM orchestration_run WHERE id = ANY(%s)",
            ([channel.run_id for channel in foreign],),
        )
        found = {run_id: (last_seq, goes_on) for run_id, last_seq, goes_on in rows}
        for channel in foreign:
            log_end, goes_on = found.get(channel.run_id, (NO_RUN, False))
            if not goes_on and not channel.local:
                channel.end(log_end)

    # --- what other processes do

    def committed_elsewhere(self, runs: Mapping[UUID, int]) -> None:
        """A doorbell: events up to these numbers were committed."""
        for run_id, seq in runs.items():
            channel = self._channels.get(run_id)
            if channel is not None and not channel.local and channel.cursor < seq:
                self._rung.add(run_id)
                self._bell.set()

    def cancelled_elsewhere(self, run_ids: Collection[UUID]) -> None:
        """A doorbell: the cancellation of these runs was asked for. Whether that is so is looked up."""
        if any(run_id in self._channels and self._channels[run_id].local for run_id in run_ids):
            self._rung_to_cancel = True
            self._bell.set()

    def watched_elsewhere(self) -> list[UUID]:
        """The runs that readers watch here and that other processes may carry out."""
        return [channel.run_id for channel in self._foreign()]

    async def poll_forever(self) -> None:
        """Look at what doorbells ring for as soon as they do, and at everything each `poll_seconds`."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._poll_seconds
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._bell.wait()
            if loop.time() < due:
                await _unharmed(self._answer_the_door(), "could not look at what other processes rang for")
                await asyncio.sleep(_POLL_GAP_SECONDS)
                continue
            await _unharmed(self.poll(), "could not look for the events of runs in other processes")
            due = max(due + self._poll_seconds, loop.time())

    async def poll(self) -> None:
        """Read what other processes committed for the runs watched here, and which runs of this process are to be cancelled."""
        self._rung.clear()
        self._rung_to_cancel = False
        self._bell.clear()
        await self._read_log(self._foreign())
        await self._look_for_cancellations()

    async def _answer_the_door(self) -> None:
        rung = [channel for channel in self._foreign() if channel.run_id in self._rung]
        to_cancel, self._rung_to_cancel = self._rung_to_cancel, False
        self._rung.clear()
        self._bell.clear()
        await self._read_log(rung)
        if to_cancel:
            await self._look_for_cancellations()

    async def _read_log(self, channels: Sequence[RunChannel]) -> None:
        if not channels:
            return
        rows = await self._database.fetch_all(
            "SELECT e.run_id, e.seq_from, e.events FROM orchestration_runevents AS e "
            "JOIN unnest(%s::uuid[], %s::bigint[]) AS w(run_id, cursor) ON e.run_id = w.run_id AND e.seq_to > w.cursor "
            "ORDER BY e.run_id, e.seq_from",
            ([channel.run_id for channel in channels], [channel.cursor for channel in channels]),
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

    async def _look_for_cancellations(self) -> None:
        held = [channel.run_id for channel in self._channels.values() if channel.local]
        if not held:
            return
        rows = await self._database.fetch_all(
            "SELECT id FROM orchestration_run WHERE id = ANY(%s) AND cancel_requested_at IS NOT NULL", (held,)
        )
        for (run_id,) in rows:
            self.on_cancel(run_id)


async def _unharmed(work: Awaitable[None], complaint: str) -> None:
    """Do a round's work: the loops here feed every reader of runs elsewhere and must outlive any fault."""
    try:
        await work
    except (DatabaseError, OSError, TimeoutError):
        logger.warning(complaint)
    except Exception:
        logger.exception(complaint)


def _ignore(_: object) -> None:
    """Nobody carries out runs here."""
