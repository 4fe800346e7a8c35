"""Doorbells: hints between processes, here between parts of one that share a channel layer and never poll of their own accord."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from channels.layers import InMemoryChannelLayer

from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.writer import GroupWriter
from orchestration import events as ev
from orchestration.doorbell import GROUP, Doorbell
from orchestration.journal import RunJournal
from orchestration.live import LiveRuns
from tests.stored_runs import stored_run


class _Layer(InMemoryChannelLayer):
    """In memory, with a switch: away, it refuses everything; stuck, it never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = self.is_stuck = False
        self.messages: list[dict[str, Any]] = []

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await self._take(message)
        await super().group_send(group, message)

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        if "committed" in message:  # others come from group_send
            await self._take(message)
        await super().send(channel, message)

    async def _take(self, message: dict[str, Any]) -> None:
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.is_away:
            raise ConnectionError("the layer is away")
        self.messages.append(message)

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message.get(kind)]


class _Process:
    """What doorbells concern of a process; its polls are an hour apart."""

    def __init__(self, database: Database, layer: _Layer) -> None:
        self.doorbell = Doorbell(layer)
        self.live = LiveRuns(database, self.doorbell, poll_seconds=3600)
        self.cancelled: asyncio.Queue[UUID] = asyncio.Queue()
        self.live.on_cancel = self.cancelled.put_nowait


@asynccontextmanager
async def processes(database: Database, layer: _Layer, count: int = 2) -> AsyncIterator[list[_Process]]:
    made = [_Process(database, layer) for _ in range(count)]
    for process in made:
        process.doorbell.start()
    polls = [asyncio.create_task(process.live.poll_forever()) for process in made]
    await until(lambda: len(layer.groups.get(GROUP, {})) == count)
    try:
        yield made
    finally:
        for process in made:
            await process.doorbell.stop()
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def say(journal: RunJournal, text: str) -> None:
    journal.emit_delta(ev.TextMessageContent(message_id="m", delta=text))


@pytest.fixture
async def writer(database_pool: Database) -> AsyncIterator[GroupWriter]:
    made = GroupWriter(database_pool)
    made.start()
    yield made
    await made.stop()


@pytest.fixture
def layer() -> _Layer:
    return _Layer()


def journal_of(process: _Process, run_id: UUID, writer: GroupWriter) -> RunJournal:
    channel = process.live.open_local(run_id, str(run_id))
    return RunJournal(run_id=run_id, fence=1, channel=channel, writer=writer)


async def test_what_is_committed_in_one_process_reaches_a_reader_in_another(
    database_pool: Database, writer: GroupWriter, layer: _Layer
) -> None:
    run_id = await stored_run(database_pool)
    async with processes(database_pool, layer) as (owner, viewer):
        subscription = viewer.live.subscribe(run_id, str(run_id))
        await until(lambda: layer.sent("watched"))
        journal = journal_of(owner, run_id, writer)
        for text in ("one", "two"):
            say(journal, text)
            async with asyncio.timeout(10):
                await subscription.wait()
            [chunk], dropped = subscription.take()
            assert (text.encode() in b"".join(chunk.lines), dropped) == (True, False)


async def test_nothing_is_sent_for_a_run_that_nobody_watches_elsewhere(
    database_pool: Database, writer: GroupWriter, layer: _Layer
) -> None:
    run_id = await stored_run(database_pool)
    async with processes(database_pool, layer) as (owner, _):
        journal = journal_of(owner, run_id, writer)
        reader = owner.live.subscribe(run_id, str(run_id))
        say(journal, "only for here")
        await journal.flush()
        await owner.doorbell.stop()  # sends what is due
    assert reader.take()[0]
    assert layer.sent("committed") == layer.sent("watched") == []


async def test_only_those_who_watch_are_rung_for(database_pool: Database, writer: GroupWriter, layer: _Layer) -> None:
    run_id = await stored_run(database_pool)
    async with processes(database_pool, layer, 4) as (owner, *viewers, idle):
        heard: list[object] = []
        idle.doorbell.on_committed = owner.doorbell.on_committed = heard.append
        subscriptions = [viewer.live.subscribe(run_id, str(run_id)) for viewer in viewers]
        await until(lambda: len(layer.sent("watched")) == 2)
        say(journal_of(owner, run_id, writer), "for two")
        async with asyncio.timeout(10):
            for subscription in subscriptions:
                await subscription.wait()
    assert (len(layer.sent("committed")), heard) == (2, [])


async def test_one_message_tells_of_all_runs_of_a_group(
    database_pool: Database, writer: GroupWriter, layer: _Layer
) -> None:
    run_ids = [await stored_run(database_pool) for _ in range(5)]
    async with processes(database_pool, layer) as (owner, viewer):
        for run_id in run_ids:
            viewer.live.subscribe(run_id, str(run_id))
        await until(lambda: layer.sent("watched"))
        journals = [journal_of(owner, run_id, writer) for run_id in run_ids]
        for _ in range(20):
            for journal in journals:
                say(journal, "token ")
        await until(lambda: layer.sent("committed"))
    [message] = layer.sent("committed")
    assert sorted(message["committed"]) == sorted((run_id.bytes, 20) for run_id in run_ids)


async def test_a_cancellation_is_carried_out_by_the_process_that_holds_the_run(
    database_pool: Database, layer: _Layer
) -> None:
    run_id = await stored_run(database_pool)
    async with processes(database_pool, layer, 3) as (owner, other, asked):
        owner.live.open_local(run_id, str(run_id))
        await database_pool.execute("UPDATE orchestration_run SET cancel_requested_at = now() WHERE id = %s", (run_id,))
        asked.doorbell.ring_cancel(run_id)
        async with asyncio.timeout(10):
            assert await owner.cancelled.get() == run_id
        assert other.cancelled.empty()


async def test_a_doorbell_alone_cancels_nothing(database_pool: Database, layer: _Layer) -> None:
    run_id, meant = await stored_run(database_pool), await stored_run(database_pool)
    async with processes(database_pool, layer) as (owner, forger):
        for held in (run_id, meant):
            owner.live.open_local(held, str(held))
        forger.doorbell.ring_cancel(run_id)
        await until(lambda: layer.sent("cancelled"))
        await database_pool.execute("UPDATE orchestration_run SET cancel_requested_at = now() WHERE id = %s", (meant,))
        forger.doorbell.ring_cancel(meant)
        async with asyncio.timeout(10):
            assert await owner.cancelled.get() == meant
        assert owner.cancelled.empty()


async def test_while_the_layer_is_away_it_is_said_once_and_the_bells_come_back_by_themselves(
    database_pool: Database, writer: GroupWriter, layer: _Layer, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("orchestration.doorbell.RETRY_SECONDS", 0.01)
    run_id = await stored_run(database_pool)
    async with processes(database_pool, layer) as (owner, viewer):
        layer.is_away = True
        subscription = viewer.live.subscribe(run_id, str(run_id))
        with caplog.at_level(logging.INFO, "orchestration.doorbell"):
            await until(lambda: caplog.records)
            layer.is_away = False
            await until(lambda: layer.sent("watched"))
            await until(lambda: len(caplog.records) > 1)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        journal = journal_of(owner, run_id, writer)
        say(journal, "back")
        async with asyncio.timeout(10):
            await subscription.wait()


async def test_a_layer_that_does_not_answer_holds_nobody_up(
    database_pool: Database, writer: GroupWriter, layer: _Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.doorbell.SEND_SECONDS", 0.05)
    run_id = await stored_run(database_pool)
    async with processes(database_pool, layer) as (owner, viewer):
        viewer.live.subscribe(run_id, str(run_id))
        await until(lambda: layer.sent("watched"))
        layer.is_stuck = True
        journal = journal_of(owner, run_id, writer)
        for text in "abc":
            say(journal, text)
            await journal.flush()
    assert journal.last_seq == 3


async def test_a_layer_that_is_away_at_first_is_joined_when_it_comes(
    database_pool: Database, layer: _Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.doorbell.RETRY_SECONDS", 0.01)
    layer.is_away = True
    early = _Process(database_pool, layer)
    early.doorbell.start()
    early.doorbell.ring_cancel(uuid7())
    await until(lambda: early.doorbell.is_down)
    assert not layer.channels, "nothing is left behind by attempts that fail"
    layer.is_away = False
    await until(lambda: GROUP in layer.groups)
    await early.doorbell.stop()


async def test_messages_that_cannot_be_read_disturb_nobody(
    database_pool: Database, layer: _Layer, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await stored_run(database_pool)
    async with processes(database_pool, layer) as (owner, viewer):
        for bad in ({"committed": [1]}, {"committed": None}, {"from": 3, "watched": ["x"]}):
            await InMemoryChannelLayer.group_send(layer, GROUP, bad)
        viewer.live.subscribe(run_id, str(run_id))
        await until(lambda: run_id in owner.doorbell.watched_elsewhere)
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 2, "each says so once"


async def test_who_watches_is_forgotten_when_it_is_not_repeated(
    database_pool: Database, layer: _Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.doorbell.RENEW_SECONDS", 0.02)
    monkeypatch.setattr("orchestration.doorbell.WATCHED_SECONDS", 0.1)
    left, stays = uuid4(), uuid4()
    async with processes(database_pool, layer) as (owner, viewer):
        subscription = viewer.live.subscribe(left, str(left))
        viewer.live.subscribe(stays, str(stays))
        await until(lambda: owner.doorbell.watched_elsewhere >= {left, stays})
        viewer.live.unsubscribe(left, subscription)
        await until(lambda: owner.doorbell.watched_elsewhere == {stays})


async def test_a_bell_without_a_shared_layer_is_silent(database_pool: Database) -> None:
    bell = Doorbell(None)
    bell.start()
    bell.watch(uuid4())
    bell.ring_cancel(uuid4())
    bell.ring(uuid4(), 1)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bell.stop)
        assert not bell.is_shared
        assert not [task for task in asyncio.all_tasks() if "doorbell" in task.get_name()]
