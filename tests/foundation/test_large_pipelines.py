"""Pipelines with more to send than a socket takes at once."""

from __future__ import annotations

import asyncio

from agentbackend.foundation.database import Database


async def test_a_pipeline_that_sends_megabytes_comes_to_its_end(database_pool: Database) -> None:
    text = "x" * 3_000_000
    async with asyncio.timeout(60):
        for pieces in range(1, 41):
            async with database_pool.connection() as connection:
                async with connection.pipeline():
                    cursors = [await connection.execute("SELECT length(%s::text)", (text,)) for _ in range(pieces % 4)]
                    last = await connection.execute("SELECT %s::text", (text,))  # as large an answer
                    await connection.commit()
                assert [await cursor.fetchone() for cursor in cursors] == [(len(text),)] * len(cursors)
                assert await last.fetchone() == (text,)


async def test_an_exchange_can_be_cancelled_and_the_pool_goes_on(database_pool: Database) -> None:
    for _ in range(3):
        try:
            async with asyncio.timeout(0.05):
                await database_pool.fetch_one("SELECT pg_sleep(30)")
        except TimeoutError:
            pass
    assert await database_pool.fetch_one("SELECT 1") == (1,)
