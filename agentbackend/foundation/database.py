"""The asynchronous connection pool that runs, streams and records use (psycopg 3), and nothing else does.

The console and the management commands use Django's ORM with its own connections; no transaction spans the two.
A connection is borrowed for one short exchange and never across a model, tool or peer call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

from psycopg import AsyncConnection
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait
from psycopg_pool import AsyncConnectionPool

Connection: TypeAlias = AsyncConnection[TupleRow]


Result = TypeVar("Result")


class _FlushingConnection(AsyncConnection[TupleRow]):
    """A connection that sends what is left to send while it waits for an answer.

    At the end of a pipeline psycopg (3.3) waits for the server's answer without looking whether the socket has taken all
    of the question. With more than the socket's buffer to send, both sides then wait for each other for ever.
    """

    async def wait(self, gen: PQGen[Result], *arguments: Any, **options: Any) -> Result:
        """Carry an exchange with the server out, as AsyncConnection does."""
        return await super().wait(_flushing(self.pgconn, gen), *arguments, **options)


def _flushing(pgconn: PGconn, exchange: PQGen[Result]) -> PQGen[Result]:
    try:
        wanted = next(exchange)
        while True:
            unsent = False
            while wanted == Wait.R and pgconn.flush() == 1:
                unsent = True
                yield Wait.RW
            # libpq may have read the answer while it was sending: the socket would not become readable any more.
            ready = Ready.R if unsent else (yield wanted)
            wanted = exchange.send(ready)
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        exchange.close()


class DatabaseClosedError(RuntimeError):
    """The pool was used before `open` or after `close`: a fault of the program, not of the database."""


class Database:
    """One process's pool of asynchronous connections.

    `conninfo` is a libpq connection string; `session_statements` run once on each new connection (search path, role).
    """

    def __init__(self) -> None:
        self._pool: AsyncConnectionPool[Connection] | None = None

    async def open(
        self,
        conninfo: str,
        *,
        session_statements: Sequence[str] = (),
        min_size: int = 2,
        max_size: int = 10,
        prepare_threshold: int | None = 5,
        wait_seconds: float = 10.0,
    ) -> None:
        """Open the pool and wait for its first connections; raises psycopg_pool.PoolTimeout when none can be made."""

        async def configure(connection: Connection) -> None:
            connection.prepare_threshold = prepare_threshold
            for statement in session_statements:
                await connection.execute(statement)
            await connection.commit()

        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            connection_class=_FlushingConnection,
            min_size=min_size,
            max_size=max_size,
            open=False,
            configure=configure,
            timeout=wait_seconds,
            max_idle=300.0,
            reconnect_timeout=30.0,
            name="agentbackend",
        )
        await pool.open(wait=True, timeout=wait_seconds)
        self._pool = pool

    async def close(self) -> None:
        """Close all connections; those in use are given five seconds."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(timeout=5.0)

    @property
    def is_open(self) -> bool:
        """Whether connections can be borrowed."""
        return self._pool is not None

    @property
    def pool(self) -> AsyncConnectionPool[Connection]:
        """The open pool; raises DatabaseClosedError otherwise."""
        if self._pool is None:
            raise DatabaseClosedError("the database pool is not open")
        return self._pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection with an open transaction: committed at the end, rolled back on an exception."""
        async with self.pool.connection() as connection:
            yield connection

    async def fetch_all(self, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[TupleRow]:
        """Run one statement in a transaction of its own and return its rows."""
        async with self.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall()

    async def fetch_one(self, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> TupleRow | None:
        """Run one statement in a transaction of its own and return its first row."""
        async with self.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchone()

    async def execute(self, query: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> int:
        """Run one statement in a transaction of its own and return how many rows it touched."""
        async with self.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return cursor.rowcount

    def statistics(self) -> dict[str, int]:
        """The pool's counters by psycopg_pool's names (`pool_size`, `pool_available`, `requests_waiting`, ...)."""
        return dict(self._pool.get_stats()) if self._pool is not None else {}


database = Database()
"""This process's pool: opened by `serve` (and by tests), closed at the end."""
