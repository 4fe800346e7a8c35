"""Doorbells: what processes tell each other over a shared channel layer, so that nobody has to wait for the next poll.

A doorbell is a hint and carries no event: who hears one looks into the database at once instead of within the second. A lost one
costs that second. All processes listen on one group; a process sends one message for all its runs, at most one every `gap` seconds:

- `committed`: runs with the number of their last committed event. Sent only for runs that somebody watches from another process.
- `watched`: runs that the sender's readers watch and that it does not carry out; repeated while they do.
- `cancelled`: runs whose cancellation was asked for.

Ringing notes the fact and returns; a task of its own sends. While the layer is away nothing is kept for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol
from uuid import UUID

from agentbackend.foundation.identifiers import uuid7

logger = logging.getLogger(__name__)

GROUP = "runs"
GAP_SECONDS = 0.01
"""Shortest time between two messages of a process."""
RENEW_SECONDS = 10.0
"""How often a process repeats which runs it watches."""
WATCHED_SECONDS = 30.0
"""How long others believe it."""
RETRY_SECONDS = 1.0
SEND_SECONDS = 1.0
MAX_RUNS = 5000
"""More runs than this are not named in one message; the poll finds the rest."""


class SharedLayer(Protocol):
    """What is needed of a channel layer (Channels, `InMemoryChannelLayer` and `RedisPubSubChannelLayer`)."""

    async def new_channel(self, prefix: str = ...) -> str: ...  # noqa: D102
    async def group_add(self, group: str, channel: str) -> None: ...  # noqa: D102
    async def group_send(self, group: str, message: dict[str, Any]) -> None: ...  # noqa: D102
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
        self._name = uuid7().hex
        self._believed_until: dict[UUID, float] = {}
        self._committed: dict[UUID, int] = {}
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
        return set(self._believed_until)

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
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._due.is_set() and not self._is_down:
            await self._send(self._layer)

    # --- ringing: called from the paths of runs and readers, never waits

    def ring(self, run_id: UUID, seq: int) -> None:
        """The run's events up to `seq` are committed. Heard where somebody watches."""
        if run_id in self._believed_until:
            self._committed[run_id] = seq
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
        """Send all that is due as one message; returns whether the layer took it."""
        message = self._take()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await _send_twice(layer, message)
        except Exception as error:  # whatever the layer's backend raises: a bell that fails disturbs nobody
            self._note_down(error)
            return False
        if self._is_down:
            self._is_down = False
            logger.info("other processes can be told of events again")
        return True

    def _take(self) -> dict[str, Any]:
        self._due.clear()
        committed, self._committed = self._committed, {}
        watched, self._watched = self._watched, set()
        cancelled, self._cancelled = self._cancelled, set()
        return {
            "type": "doorbell",
            "from": self._name,
            "committed": [(run_id.bytes, seq) for run_id, seq in committed.items()],
            "watched": [run_id.bytes for run_id in watched],
            "cancelled": [run_id.bytes for run_id in cancelled],
        }

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
        self._believed_until = {run_id: until for run_id, until in self._believed_until.items() if until > now}

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
            await layer.group_send(GROUP, self._take())  # an unreachable layer fails here, where nothing is left behind
            channel = await layer.new_channel("doorbell")
            await layer.group_add(GROUP, channel)
        self._renew()
        while True:
            self._hear(await layer.receive(channel))

    def _hear(self, message: Mapping[str, Any]) -> None:
        if message.get("from") == self._name:
            return
        try:
            committed = {UUID(bytes=run_id): int(seq) for run_id, seq in message["committed"]}
            watched = [UUID(bytes=run_id) for run_id in message["watched"]]
            cancelled = [UUID(bytes=run_id) for run_id in message["cancelled"]]
        except (KeyError, TypeError, ValueError):
            self._note_unreadable()
            return
        self._note_watched(watched)
        if committed:
            self.on_committed(committed)
        if cancelled:
            self.on_cancelled(cancelled)

    def _note_unreadable(self) -> None:
        if not self._heard_unreadable:
            self._heard_unreadable = True
            logger.warning("a doorbell of another process cannot be read; it may be of another version")

    def _note_watched(self, run_ids: Iterable[UUID]) -> None:
        until = asyncio.get_running_loop().time() + WATCHED_SECONDS
        for run_id in run_ids:
            self._believed_until[run_id] = until


async def _send_twice(layer: SharedLayer, message: dict[str, Any]) -> None:
    """Send; once more when that fails, because a connection that idled over a restart of the backend fails once."""
    try:
        await layer.group_send(GROUP, message)
    except Exception as error:
        logger.debug("a doorbell is rung again", extra={"reason": type(error).__name__})
        await layer.group_send(GROUP, message)


def _ignore(_: object) -> None:
    """Nobody answers the door."""


def _detached(work: Any, name: str) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work, name=name, context=contextvars.Context())
