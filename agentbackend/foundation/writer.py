"""The writer: one per process, it commits what runs write in groups, under each run's fence.

A `Unit` holds rows that belong together (journal rows, events, audit rows). The writer takes all open units, writes them in one
transaction, and starts the next group when that one has returned, at least `gap` seconds later. So a unit costs a share of a
commit, not a commit, and order within a run is the order of its units.

**Fencing.** A run row carries a `fence` that each claim increments. A group first locks its runs by id and fence
(`FOR NO KEY UPDATE`, in id order, so that two writers cannot deadlock and a claim waits for the group, or the group for the claim);
each insert then joins the run on id and fence again. Rows of a run whose fence has moved on are refused, the others stay:
the units refused fail with LeaseLostError. A plain join, or FOR KEY SHARE, lets a zombie's rows through.

**Unknown outcome.** When the connection breaks the same group is sent again: every statement can be repeated (inserts do nothing
on conflict, updates set absolute values). The writer does not give up while the database is away; `room()` makes
producers wait.

**Poison.** When the database refuses a group's data it is retried run by run, and only the culprit fails, with UnitRejectedError.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from uuid import UUID

import psycopg
from psycopg import AsyncCursor
from psycopg import errors as pg_errors
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout

from agentbackend.foundation.database import Connection, Database

logger = logging.getLogger(__name__)

Row: TypeAlias = tuple[Any, ...]
Claim: TypeAlias = tuple[UUID, int]
"""A run and the fence under which somebody writes it."""

_RETRY_FIRST_SECONDS = 0.05
_RETRY_LONGEST_SECONDS = 1.0
_TRANSIENT = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    pg_errors.SerializationFailure,
    pg_errors.DeadlockDetected,
    OSError,
)


class LeaseLostError(Exception):
    """Another process has claimed the run: its former owner stops and writes nothing more."""


class UnitRejectedError(Exception):
    """The database refuses the unit's data. The run that wrote it fails; an operator looks."""


class WriterStoppedError(Exception):
    """The writer was stopped before it could commit the unit."""


@dataclass(frozen=True, slots=True, eq=False)
class RowKind:
    """A kind of row that units may hold: its name for people, its columns with PostgreSQL types, its statement.

    The statement takes one array a column, after the arrays of the runs' ids and fences. Kinds are compared by identity and
    written in the order in which a group first meets them within `order`, lowest first.
    """

    name: str
    columns: tuple[str, ...]
    statement: str
    order: int = 0


def insert_rows(
    table: str,
    columns: dict[str, str],
    *,
    order: int = 0,
    on_conflict: str = "DO NOTHING",
    fence_table: str = "orchestration_run",
) -> RowKind:
    """A kind of row that is inserted; `columns` maps names to PostgreSQL types."""
    names = ", ".join(columns)
    statement = (
        f"INSERT INTO {table} ({names}) SELECT {', '.join('u.' + name for name in columns)} "  # noqa: S608 - constants of this code
        f"FROM {_unnest(columns)} WHERE {_held(fence_table)} ON CONFLICT {on_conflict}"
    )
    return RowKind(table, tuple(columns), statement, order)


def update_rows(
    table: str, key: dict[str, str], columns: dict[str, str], *, order: int = 0, fence_table: str = "orchestration_run"
) -> RowKind:
    """A kind of row that sets `columns` of the row with this `key` to absolute values."""
    assignments = ", ".join(f"{name} = u.{name}" for name in columns)
    match = " AND ".join(f"t.{name} = u.{name}" for name in key)
    statement = (
        f"UPDATE {table} AS t SET {assignments} FROM {_unnest({**key, **columns})} "  # noqa: S608 - constants of this code
        f"WHERE {match} AND {_held(fence_table)}"
    )
    return RowKind(f"{table} (update)", (*key, *columns), statement, order)


def changed_rows(
    name: str, columns: dict[str, str], statement: str, *, order: int = 0, fence_table: str = "orchestration_run"
) -> RowKind:
    """A kind of row with a statement of its own, which can be repeated: `{rows}` stands for the rows as the table `u`, `{held}`
    for the condition that whoever writes them still holds their run."""
    written = statement.format(rows=_unnest(columns), held=_held(fence_table))
    return RowKind(name, tuple(columns), written, order)


def _unnest(columns: dict[str, str]) -> str:
    arrays = ", ".join(f"%b::{kind}[]" for kind in columns.values())
    return f"unnest(%b::uuid[], %b::bigint[], {arrays}) AS u(held_run, held_fence, {', '.join(columns)})"


def _held(fence_table: str) -> str:
    return (
        f"(u.held_run IS NULL OR EXISTS (SELECT FROM {fence_table} AS held "
        "WHERE held.id = u.held_run AND held.fence = u.held_fence))"
    )


UnitState = Literal["open", "sealed", "committed", "failed"]


class Unit:
    """Rows that are committed together, for one run under its fence, or for none (`run_id=None`).

    A unit can be added to until the writer seals it at the start of a group. `on_commit` is called in the event loop right after
    the commit and before anything that awaits `done` goes on: events are released there.
    """

    __slots__ = ("_done", "enqueued_at", "error", "fence", "on_commit", "rows", "run_id", "size", "state")

    def __init__(self, run_id: UUID | None = None, fence: int = 0, on_commit: Callable[[], None] | None = None) -> None:
        self.run_id = run_id
        self.fence = fence
        self.on_commit = on_commit
        self.rows: dict[RowKind, list[Row]] = {}
        self.size = 0
        self.state: UnitState = "open"
        self.error: BaseException | None = None
        self.enqueued_at = 0.0
        self._done: asyncio.Future[None] | None = None

    def add(self, kind: RowKind, row: Row, size: int = 200) -> None:
        """Put a row into the unit; `size` is its weight in bytes for the writer's bound."""
        self.rows.setdefault(kind, []).append(row)
        self.size += size

    def seal(self) -> None:
        """Called by the writer when it takes the unit; nothing is added afterwards."""
        self.state = "sealed"

    def statements(self) -> list[tuple[str, list[list[Any]]]]:
        """The unit's rows as statements with their parameters, for a transaction other than the writer's."""
        return [(kind.statement, arrays) for kind, arrays in _arrays([self])]

    async def done(self) -> None:
        """Wait for the commit; raises LeaseLostError, UnitRejectedError or WriterStoppedError."""
        if self.state in ("committed", "failed"):
            if self.error is not None:
                raise self.error
            return
        if self._done is None:
            self._done = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._done)

    def settle(self, error: BaseException | None) -> None:
        """Called by the writer once the outcome is known."""
        self.error = error
        self.state = "committed" if error is None else "failed"
        if error is None and self.on_commit is not None:
            self.on_commit()
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
            self._done.exception()  # retrieved: a waiter that was cancelled leaves no warning behind


@dataclass(slots=True)
class WriterStatistics:
    """Counters since the start: groups, units and bytes committed, units refused, retries, seconds spent in the database."""

    groups: int = 0
    units: int = 0
    bytes: int = 0
    lease_lost: int = 0
    rejected: int = 0
    retries: int = 0
    commit_seconds: float = 0.0


class GroupWriter:
    """Commits units in groups; see the module's text for what it promises."""

    def __init__(
        self,
        database: Database,
        *,
        gap: float = 0.005,
        fence_table: str = "orchestration_run",
        max_lag_seconds: float = 2.0,
        max_group_units: int = 2000,
    ) -> None:
        self._database = database
        self._gap = gap
        self._max_lag_seconds = max_lag_seconds
        self._max_group_units = max_group_units
        self._lock_statement = (
            "SELECT run.id, run.fence FROM "  # noqa: S608 - constants of this code
            f"{fence_table} AS run JOIN unnest(%b::uuid[], %b::bigint[]) AS u(id, fence) "
            "ON run.id = u.id AND run.fence = u.fence ORDER BY run.id FOR NO KEY UPDATE OF run"
        )
        self._pending: list[Unit] = []
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._in_flight_since: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.last_error: str = ""
        self.statistics = WriterStatistics()

    def start(self) -> None:
        """Begin to commit; call once, inside the event loop."""
        self._stopping = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="group-writer")

    async def stop(self, timeout: float = 10.0) -> None:
        """Commit what is pending and end; what cannot be committed within `timeout` seconds fails with WriterStoppedError."""
        self._stopping = True
        self._wake.set()
        task, self._task = self._task, None
        if task is not None:
            _, late = await asyncio.wait({task}, timeout=timeout)
            for straggler in late:
                straggler.cancel()
                await asyncio.gather(straggler, return_exceptions=True)
        self._fail(self._take(everything=True), WriterStoppedError("the writer was stopped"))
        self._tell_progress()

    @property
    def is_running(self) -> bool:
        """Whether units are being committed."""
        return self._task is not None and not self._task.done()

    @property
    def pending(self) -> int:
        """How many units wait for a group."""
        return len(self._pending)

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest unit that is not committed, in seconds: how far the log is behind."""
        if self._in_flight_since is not None:
            return time.monotonic() - self._in_flight_since
        return time.monotonic() - self._pending[0].enqueued_at if self._pending else 0.0

    def submit(self, unit: Unit) -> None:
        """Queue a unit; units of a run are committed in the order of their submission."""
        if self._stopping and not self.is_running:
            unit.seal()
            unit.settle(WriterStoppedError("the writer was stopped"))
            return
        unit.enqueued_at = time.monotonic()
        self._pending.append(unit)
        self._wake.set()

    async def commit(self, unit: Unit) -> None:
        """Queue a unit and wait for its commit."""
        self.submit(unit)
        await unit.done()

    async def room(self) -> None:
        """Wait while the log is more than `max_lag_seconds` behind: producers call it before they make more."""
        while self.lag_seconds > self._max_lag_seconds and self.is_running:
            await self._progress.wait()

    # --- one group after another

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            group = self._take()
            if not group:
                if self._stopping:
                    return
                self._wake.clear()
                continue
            started = time.monotonic()
            self._in_flight_since = group[0].enqueued_at
            await self._commit_group(group)
            self._in_flight_since = None
            self._tell_progress()
            spent = time.monotonic() - started
            self.statistics.groups += 1
            self.statistics.commit_seconds += spent
            if spent < self._gap and not self._stopping:
                await asyncio.sleep(self._gap - spent)

    def _take(self, *, everything: bool = False) -> list[Unit]:
        count = len(self._pending) if everything else min(len(self._pending), self._max_group_units)
        group, self._pending = self._pending[:count], self._pending[count:]
        for unit in group:
            unit.seal()
        return group

    def _tell_progress(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    async def _commit_group(self, group: list[Unit]) -> None:
        try:
            held = await self._write_until_known(group)
        except (
            psycopg.DataError,
            psycopg.IntegrityError,
            psycopg.ProgrammingError,
            psycopg.NotSupportedError,
            UnicodeError,
        ) as error:
            await self._commit_run_by_run(group, error)
            return
        self._settle(group, held)

    async def _commit_run_by_run(self, group: list[Unit], error: Exception) -> None:
        """A group's data was refused: find the culprit, keep the others."""
        by_run: dict[tuple[UUID | None, int, int], list[Unit]] = {}
        for unit in group:
            key = (unit.run_id, unit.fence, id(unit) if unit.run_id is None else 0)
            by_run.setdefault(key, []).append(unit)
        if len(by_run) == 1:
            self.statistics.rejected += len(group)
            logger.error(
                "the database refused a unit", extra={"run_id": str(group[0].run_id), "reason": type(error).__name__}
            )
            self._fail(group, UnitRejectedError(f"the database refused the data: {type(error).__name__}"))
            return
        for units in by_run.values():
            await self._commit_group(units)

    async def _write_until_known(self, group: list[Unit]) -> set[Claim]:
        """Write the group, again while the database is away; returns the claims whose fence held."""
        delay = _RETRY_FIRST_SECONDS
        while True:
            try:
                held = await self._write(group)
            except _TRANSIENT as error:
                self.statistics.retries += 1
                self.last_error = type(error).__name__
                logger.warning("the writer could not commit and will try again", extra={"reason": type(error).__name__})
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_LONGEST_SECONDS)
            else:
                self.last_error = ""
                return held

    async def _write(self, group: list[Unit]) -> set[Claim]:
        claims = list({(unit.run_id, unit.fence) for unit in group if unit.run_id is not None})
        held: set[Claim] = set()
        async with self._database.connection() as connection:
            async with connection.pipeline():
                lock = await self._lock_runs(connection, claims) if claims else None
                for kind, arrays in _arrays(group):
                    await connection.execute(kind.statement, arrays)
                await connection.commit()  # in the pipeline: the whole group is one round trip
            if lock is not None:
                held = {(run_id, fence) for run_id, fence in await lock.fetchall()}
        return held

    async def _lock_runs(self, connection: Connection, claims: list[Claim]) -> AsyncCursor[TupleRow]:
        parameters = ([run_id for run_id, _ in claims], [fence for _, fence in claims])
        return await connection.execute(self._lock_statement, parameters)

    def _settle(self, group: Sequence[Unit], held: set[Claim]) -> None:
        for unit in group:
            if unit.run_id is not None and (unit.run_id, unit.fence) not in held:
                self.statistics.lease_lost += 1
                unit.settle(LeaseLostError(f"run {unit.run_id} has another owner"))
                continue
            self.statistics.units += 1
            self.statistics.bytes += unit.size
            unit.settle(None)

    @staticmethod
    def _fail(units: Iterable[Unit], error: Exception) -> None:
        for unit in units:
            unit.settle(error)


def _arrays(group: Sequence[Unit]) -> list[tuple[RowKind, list[list[Any]]]]:
    """The group's rows turned into one array a column for each kind, kinds in their order."""
    rows: dict[RowKind, list[Row]] = {}
    for unit in group:
        for kind, unit_rows in unit.rows.items():
            rows.setdefault(kind, []).extend((unit.run_id, unit.fence, *row) for row in unit_rows)
    kinds = sorted(rows, key=lambda kind: kind.order)
    return [(kind, [list(column) for column in zip(*rows[kind], strict=True)]) for kind in kinds]
