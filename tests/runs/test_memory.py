"""Long threads keep what was said at their beginning: as a summary, made in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg
import pytest
from asgiref.sync import sync_to_async

from agentbackend.foundation.database import Database
from audit.actor import SYSTEM
from orchestration.agents import AgentCatalogue
from orchestration.memory import MEMORY_TITLE
from orchestration.model_port import Finished, ModelError, ModelEvent, ModelRequest, TextDelta, Usage
from orchestration.model_providers.catalogue import ModelCatalogue
from orchestration.summarising import Summariser
from tests.running_service import Caller, RunningService
from tests.runs.support import Stored, eventually, text
from tools.changes import submit
from tools.documents import Document
from tools.registry import registry

FILLER = "and this is only said so that the thread grows, " * 6


def made_agent(service: RunningService, connection: psycopg.Connection, *, summarise: bool = True) -> str:
    """An agent that is shown little of a thread, once the service knows it."""
    slug = f"forgetful-{uuid4().hex[:8]}"
    connection.execute(
        "INSERT INTO orchestration_agent (id, slug, name, history_token_budget, summarise_history) "
        "VALUES (gen_random_uuid(), %s, %s, 400, %s)",
        (slug, slug, summarise),
    )
    with service.client(Caller()) as client:
        eventually(lambda: slug in client.get("/ag-ui/info").json()["agents"], "the agent is known")
    return slug


def summaries(stored: Stored, thread_id: str) -> list[str]:
    return stored.values(
        "SELECT s.text FROM orchestration_conversationsummary s JOIN orchestration_thread t ON t.id = s.thread_id "
        "WHERE t.public_id = %s ORDER BY s.up_to_position",
        thread_id,
    )


def said(service: RunningService, caller: Caller, agent: str, thread_id: str, words: str) -> str:
    return text(service.post_run(caller, words, path=f"/ag-ui/agent/{agent}/run", threadId=thread_id))


def test_a_fact_of_the_first_turn_is_shown_to_the_model_long_after(
    service: RunningService, superuser_connection: psycopg.Connection, stored: Stored
) -> None:
    agent, caller, thread_id = made_agent(service, superuser_connection), Caller(), str(uuid4())
    said(service, caller, agent, thread_id, "My dog is called Bruno")
    assert said(service, caller, agent, thread_id, "demo: recall") == "I was shown no summary."
    said(service, caller, agent, thread_id, f"First {FILLER}")
    said(service, caller, agent, thread_id, f"Second {FILLER}")
    eventually(lambda: "Bruno" in "".join(summaries(stored, thread_id)), "the beginning is summarised")
    for number in range(4):
        said(service, caller, agent, thread_id, f"Turn {number} {FILLER}")
    folded = eventually(lambda: [s for s in summaries(stored, thread_id) if "Turn 1" in s], "summaries are folded")
    assert "Bruno" in folded[-1]
    recalled = said(service, caller, agent, thread_id, "demo: recall")
    assert recalled.startswith(MEMORY_TITLE)
    assert "My dog is called Bruno" in recalled
    turns = stored.values(
        "SELECT a.reason FROM audit_events a JOIN orchestration_thread t ON t.id = a.thread_id "
        "WHERE t.public_id = %s AND a.action = 'model.turn' AND a.target_kind = 'thread'",
        thread_id,
    )
    assert len(turns) >= len(folded)


class Held:
    """A port that answers with a summary when it may."""

    def __init__(self) -> None:
        self.asked: list[ModelRequest] = []
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.failure: ModelError | None = None

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[list[ModelEvent]]]:
        self.asked.append(request)
        self.was_asked.set()

        async def batches() -> AsyncIterator[list[ModelEvent]]:
            await self.may_answer.wait()
            if self.failure is not None:
                raise self.failure
            yield [TextDelta("The dog is Bruno.\x1b"), Finished("stop", Usage(input_tokens=5, output_tokens=6))]

        yield batches()

    async def aclose(self) -> None:
        pass


@pytest.mark.timeout(60)
async def test_a_summary_that_was_lost_is_made_again_and_only_once(
    service: RunningService, superuser_connection: psycopg.Connection, stored: Stored, database_pool: Database
) -> None:
    agent, caller, thread_id = made_agent(service, superuser_connection, summarise=False), Caller(), str(uuid4())
    for words in ("My dog is called Bruno", f"First {FILLER}", f"Second {FILLER}"):
        await asyncio.to_thread(said, service, caller, agent, thread_id, words)
    superuser_connection.execute("UPDATE orchestration_agent SET summarise_history = true WHERE slug = %s", (agent,))
    [thread] = stored.values("SELECT id FROM orchestration_thread WHERE public_id = %s", thread_id)
    port = Held()
    summariser = Summariser(
        database_pool,
        AgentCatalogue(database_pool),
        port,
        models=ModelCatalogue(database_pool),
        default_model="m",
        summary_model="s",
    )
    dying = asyncio.create_task(summariser.summarise(thread))
    await port.was_asked.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert summaries(stored, thread_id) == []
    port.may_answer.set()
    port.failure = ModelError("model_unavailable", "The model could not be reached.")
    assert not await summariser.summarise(thread)
    assert summaries(stored, thread_id) == []
    port.failure = None
    await asyncio.gather(*(summariser.summarise(thread) for _ in range(3)))
    assert summaries(stored, thread_id) == ["The dog is Bruno."]
    assert not await summariser.summarise(thread), "nothing is due any more"
    assert port.asked[0].model == "s"
    assert "My dog is called Bruno" in str(port.asked[0].messages)


async def test_a_summary_counts_under_the_budgets_of_the_threads_owner(
    service: RunningService, superuser_connection: psycopg.Connection, stored: Stored, database_pool: Database
) -> None:
    agent, caller, thread_id = made_agent(service, superuser_connection, summarise=False), Caller(), str(uuid4())
    for words in ("My dog is called Bruno", f"First {FILLER}", f"Second {FILLER}"):
        await asyncio.to_thread(said, service, caller, agent, thread_id, words)
    superuser_connection.execute("UPDATE orchestration_agent SET summarise_history = true WHERE slug = %s", (agent,))
    [thread] = stored.values("SELECT id FROM orchestration_thread WHERE public_id = %s", thread_id)
    port, models = Held(), ModelCatalogue(database_pool)
    port.may_answer.set()
    summariser = Summariser(database_pool, AgentCatalogue(database_pool), port, models=models, default_model="m")
    name = f"summaries-{uuid4().hex[:8]}"
    for limit, expected in ((20, []), (100_000, ["The dog is Bruno."])):
        said_of = {"what": "tokens", "limit": limit, "period": "day", "user_id": caller.id}
        await sync_to_async(submit)(Document("Budget", name, said_of), by=SYSTEM)
        registry.expire()
        await summariser.summarise(thread)
        assert summaries(stored, thread_id) == expected
    used = stored.values(
        "SELECT u.used FROM tools_budgetuse u JOIN tools_budget b ON b.id = u.budget_id WHERE b.name = %s", name
    )
    await sync_to_async(submit)(Document("Budget", name, None), by=SYSTEM)
    assert used == [11]
