"""Doorbells: what processes tell each other over a shared channel layer, so that nobody has to wait for the next poll.

A doorbell is a hint and carries no event: who hears one looks into the database at once instead of within the second. A lost one
costs that second. Each process has a channel of its own and joins one group, which is told

- `watched`: runs that the sender's readers watch and that it does not carry out; repeated while they do;
- `cancelled`: runs whose cancellation was asked for.

Who carries out a run then sends to the channels of those who watch it, and to nobody else,

- `committed`: runs with the number of their last committed event; one message for all runs of a process, not one an event.

Ringing notes the fact and returns; a task of its own sends. While the layer is away nothing is kept for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Protocol
from uuid import UUID

logger = logging.getLogger(__name__)

GROUP = "runs"
GAP_SECONDS = 0.01
"""Shortest time between two rings of a process."""
RENEW_SECONDS = 10.0
"""How often a process repeats which runs it watches."""
WATCHED_SECONDS = 30.0
"""How long others believe it."""
RETRY_SECONDS = 1.0
SEND_SECONDS = 1.0
_CANCEL_AGAIN_SECONDS = 0.5
MAX_RUNS = 5000
"""More runs than this are not named in one message; the poll finds the rest."""


class SharedLayer(Protocol):
    """What is needed of a channel layer (Channels, `InMemoryChannelLayer` and `RedisPubSubChannelLayer`)."""

    async def new_channel(self, prefix: str = ...) -> str: ...  # noqa: D102
    async def group_add(self, group: str, channel: str) -> None: ...  # noqa: D102
    async def group_send(self, group: str, message: dict[str, Any]) -> None: ...  # noqa: D102
    async def send(self, channel: str, message: dict[str, Any]) -> None: ...  # noqa: D102
    async def receive(self, channel: str) -> dict[str, Any]: ...  # noqa: D102


class Doorbell:
    """One process's bell; silent without a layer, where there is only one process.

    `on_committed`, `on_cancelled` and `watched_here` are set by who answers the door; they must return at once.
    """

    def __init__(self, layer: SharedLayer | None, *, gap_seconds: float = GAP_SECONDS) -> None:
        self.on_committed: Callable[[Mapping[UUID, int]], None] = _ignore
        self.on_cancelled: Callable[[Collection[UUID]], None] = _ignore
        self.watched_here: Callable[[], Iterable[UUID]] = tuple
        self._layer = layer
        self._gap_seconds = gap_seconds
        self._channel = ""
        self._watchers: dict[UUID, dict[str, float]] = {}
        self._committed: dict[str, dict[UUID, int]] = {}
        self._watched: set[UUID] = set()
        self._cancelled: set[UUID] = set()
        self._due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_down = False
        self._heard_unreadable = False

    @property
    def is_shared(self) -> bool:
        """Whether other processes can be told anything."""
        return self._layer is not None

    @property
    def is_down(self) -> bool:
        """Whether the layer took nothing the last time."""
        return self._is_down

    @property
    def watched_elsewhere(self) -> set[UUID]:
        """The runs that readers in other processes watch, as far as it was heard."""
        return set(self._watchers)

    def start(self) -> None:
        """Begin to listen and to send; call inside the event loop."""
        if self._layer is None:
            return
        self._tasks = [
            _detached(self._listen_forever(self._layer), "doorbell"),
            _detached(self._send_forever(self._layer), "doorbell ringer"),
            _detached(self._renew_forever(), "doorbell watches"),
        ]

    async def stop(self) -> None:
        """Send what is due, and stop listening."""
        tasks, self._tasks = self._tasks, []
        if self._layer is None or not tasks:
            return
        waiting = set(tasks)
        while waiting:  # a client of the layer's backend may take a cancellation for a failed connection and go on
            for task in waiting:
                task.cancel()
            _, waiting = await asyncio.wait(waiting, timeout=_CANCEL_AGAIN_SECONDS)
        if self._due.is_set() and not self._is_down:
            await self._send(self._layer)

    # --- ringing: called from the paths of runs and readers, never waits

    def ring(self, run_id: UUID, seq: int) -> None:
        """The run's events up to `seq` are committed. Heard where somebody watches."""
        watchers = self._watchers.get(run_id)
        if not watchers:
            return
        for channel in watchers:
            self._committed.setdefault(channel, {})[run_id] = seq
        self._due.set()

    def ring_cancel(self, run_id: UUID) -> None:
        """The run's cancellation was asked for."""
        if self._layer is not None and len(self._cancelled) < MAX_RUNS:
            self._cancelled.add(run_id)
            self._due.set()

    def watch(self, run_id: UUID) -> None:
        """A reader here watches a run that another process may carry out."""
        if self._layer is not None and len(self._watched) < MAX_RUNS:
            self._watched.add(run_id)
            self._due.set()

    # --- sending

    async def _send_forever(self, layer: SharedLayer) -> None:
        while True:
            await self._due.wait()
            if await self._send(layer):
                await asyncio.sleep(self._gap_seconds)
                continue
            await asyncio.sleep(RETRY_SECONDS)
            self._renew()  # says anew what others may have missed, and finds out whether the layer is back
            self._due.set()

    async def _send(self, layer: SharedLayer) -> bool:
        """Send all that is due; returns whether the layer took it."""
        self._due.clear()
        committed, self._committed = self._committed, {}
        try:
            async with asyncio.timeout(SEND_SECONDS):
                if self._watched or self._cancelled or self._is_down:
                    await self._tell_all(layer)
                for channel, runs in committed.items():
                    bells = [(run_id.bytes, seq) for run_id, seq in runs.items()]
                    await _twice(partial(layer.send, channel, {"type": "doorbell", "committed": bells}))
        except Exception as error:  # whatever the layer's backend raises: a bell that fails disturbs nobody
            self._note_down(error)
            return False
        if self._is_down:
            self._is_down = False
            logger.info("other processes can be told of events again")
        return True

    async def _tell_all(self, layer: SharedLayer) -> None:
        watched, self._watched = self._watched, set()
        cancelled, self._cancelled = self._cancelled, set()
        message = {
            "type": "doorbell",
            "from": self._channel,
            "watched": [run_id.bytes for run_id in watched],
            "cancelled": [run_id.bytes for run_id in cancelled],
        }
        await _twice(partial(layer.group_send, GROUP, message))

    def _note_down(self, error: Exception) -> None:
        if not self._is_down:
            self._is_down = True
            reason = type(error).__name__
            logger.warning("other processes cannot be told of events; they poll each second", extra={"reason": reason})

    # --- what is watched

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            self._renew()
            self._forget_old_watches()

    def _renew(self) -> None:
        for run_id in self.watched_here():
            self.watch(run_id)

    def _forget_old_watches(self) -> None:
        now = asyncio.get_running_loop().time()
        fresh = {
            run_id: {channel: until for channel, until in watchers.items() if until > now}
            for run_id, watchers in self._watchers.items()
        }
        self._watchers = {run_id: watchers for run_id, watchers in fresh.items() if watchers}

    # --- listening

    async def _listen_forever(self, layer: SharedLayer) -> None:
        while True:
            try:
                await self._listen(layer)
            except Exception as error:  # as above: it is tried again, and the poll goes on meanwhile
                self._note_down(error)
                self._due.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, layer: SharedLayer) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await self._tell_all(layer)  # an unreachable layer fails here, where nothing is left behind
            channel = await layer.new_channel("doorbell")
            await layer.group_add(GROUP, channel)
        self._channel = channel
        self._renew()
        while True:
            self._hear(await layer.receive(channel))

    def _hear(self, message: Mapping[str, Any]) -> None:
        sender = str(message.get("from", ""))
        if sender and sender == self._channel:
            return
        try:
            committed = {UUID(bytes=run_id): int(seq) for run_id, seq in message.get("committed", ())}
            watched = [UUID(bytes=run_id) for run_id in message.get("watched", ())]
            cancelled = [UUID(bytes=run_id) for run_id in message.get("cancelled", ())]
        except (TypeError, ValueError):
            self._note_unreadable()
            return
        if sender:
            self._note_watched(watched, sender)
        if committed:
            self.on_committed(committed)
        if cancelled:
            self.on_cancelled(cancelled)

    def _note_unreadable(self) -> None:
        if not self._heard_unreadable:
            self._heard_unreadable = True
            logger.warning("a doorbell of another process cannot be read; it may be of another version")

    def _note_watched(self, run_ids: Iterable[UUID], channel: str) -> None:
        until = asyncio.get_running_loop().time() + WATCHED_SECONDS
        for run_id in run_ids:
            self._watchers.setdefault(run_id, {})[channel] = until


async def _twice(send: Callable[[], Awaitable[None]]) -> None:
    """Send; once more when that fails, because a connection that idled over a restart of the backend fails once."""
    try:
        await send()
    except Exception as error:
        logger.debug("a doorbell is rung again", extra={"reason": type(error).__name__})
        await send()


def _ignore(_: object) -> None:
    """Nobody answers the door."""


def _detached(work: Any, name: str) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work, name=name, context=contextvars.Context())
