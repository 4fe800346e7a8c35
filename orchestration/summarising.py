"""Summaries are made here: in the background, by the model, after a run has ended whose thread has outgrown its agent's budget.

So nobody waits for one, and no run, lease or database connection is held meanwhile. A summary that is lost, because the process died or
the model failed, is made after the thread's next run; made twice at once, the first one is kept. Each one is a model turn in the audit
trail, and counts under the budgets of the thread's owner.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from agentbackend.foundation import metrics
from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.writer import Unit
from audit import actions
from audit import rows as audit_rows
from audit.actor import Actor
from audit.entry import AuditEntry, Outcome, Target, entry
from orchestration import memory
from orchestration.agents import AgentCatalogue, AgentProfile
from orchestration.history import CHARACTERS_PER_TOKEN
from orchestration.memory import StoredTurn
from orchestration.model_port import Finished, ModelError, ModelPort, ModelRequest, TextDelta, Usage
from orchestration.model_providers.catalogue import ModelCatalogue, Price
from orchestration.model_providers.names import ModelName
from orchestration.spending import Spent, estimated_input
from orchestration.store import MAX_HISTORY_TURNS
from tools.governance import findings as of_findings
from tools.governance.budget_ledger import SETTLED_ROWS, ledger, settlement, turn_slot
from tools.governance.budgets import Amounts, OverBudgetError, nano_dollars
from tools.governance.guardrails.policy import Finding, Stage
from tools.registry import registry

logger = logging.getLogger(__name__)

LONGEST_SECONDS = 180.0
_SLOT = 0  # of the run after which it is made: its own turns are numbered from 1
_KEEP = """
INSERT INTO orchestration_conversationsummary
    (id, thread_id, up_to_position, last_message_id, text, token_estimate, model, input_tokens, output_tokens)
SELECT %s, thread.id, %s, %s, %s, %s, %s, %s, %s FROM orchestration_thread AS thread WHERE thread.id = %s
ON CONFLICT (thread_id, up_to_position) DO NOTHING
"""
_THREAD = """
SELECT run.id, run.agent_id, run.input -> 'actor', COALESCE(summary.text, ''), COALESCE(summary.up_to_position, 0),
    COALESCE(summary.token_estimate, 0)
FROM orchestration_thread AS thread
CROSS JOIN LATERAL (SELECT id, agent_id, input FROM orchestration_run WHERE thread_id = thread.id ORDER BY id DESC LIMIT 1) AS run
LEFT JOIN LATERAL (SELECT text, up_to_position, token_estimate FROM orchestration_conversationsummary
    WHERE thread_id = thread.id ORDER BY up_to_position DESC LIMIT 1) AS summary ON true
WHERE thread.id = %s
"""
_TURNS = """
SELECT position, messages FROM conversation_turns
WHERE thread_id = %s AND position > %s AND finished_at IS NOT NULL ORDER BY position LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class _Due:
    """A thread whose older part is to be summarised, and for whom."""

    thread_id: UUID
    run_id: UUID
    actor: Actor
    agent: AgentProfile
    former: str
    turns: list[StoredTurn]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked of which model. `holds`: the budgets of the thread's owner have something set aside for it."""

    request: ModelRequest
    name: ModelName
    price: Price | None
    holds: bool

    def spent(self, made: _Summary) -> Spent:
        """What it came to, estimated where the provider has not counted."""
        read, wrote = estimated_input(self.request), len(made.text) // CHARACTERS_PER_TOKEN
        usage = made.usage or Usage(read, wrote, read + wrote)
        cost = None if self.price is None else self.price.cost(usage)
        return Spent(self.name, usage, cost, estimated=made.usage is None)


@dataclass(frozen=True, slots=True)
class _Summary:
    """What the model has made of it."""

    text: str
    usage: Usage | None
    findings: tuple[Finding, ...] = ()


class Summariser:
    """Makes the summaries of one process. `summary_model` empty: the agent's own model."""

    def __init__(
        self,
        database: Database,
        agents: AgentCatalogue,
        port: ModelPort,
        *,
        models: ModelCatalogue,
        default_model: str,
        summary_model: str = "",
    ) -> None:
        self._models = models
        self._database = database
        self._agents = agents
        self._port = port
        self._default_model = default_model
        self._summary_model = summary_model

    async def summarise(self, thread_id: UUID) -> bool:
        """Summarise what is due in this thread; returns whether more may be due. A failure leaves everything as it was."""
        due = await self._due(thread_id)
        if due is None:
            return False
        started = datetime.now(UTC)
        asked = await self._ready(due)
        if asked is None:
            return False
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                made = await self._screened(await self._ask(asked.request, due.agent.history_token_budget), due)
        except ModelError as error:
            await self._failed(due, asked, error.code)
            return False
        except TimeoutError:
            await self._failed(due, asked, "model_timeout")
            return False
        await self._keep(due, asked, made, started)
        return True

    async def _ready(self, due: _Due) -> _Asked | None:
        """What to ask, set aside under the budgets of the thread's owner; None when they have no room for it."""
        model = self._summary_model or due.agent.model or self._default_model
        request = memory.summary_request(model, due.former, due.turns, due.agent.history_token_budget)
        models = await self._models.models()
        name = models.named(model)
        asked = _Asked(request, name, models.price_of(name), holds=False)
        try:
            holds = await ledger.reserve_turn(
                due.run_id, _SLOT, due.agent.slug, due.actor, lambda: _may_use(request, asked.price)
            )
        except OverBudgetError:
            await self._failed(due, asked, "budget_exceeded")
            return None
        return replace(asked, holds=holds)

    async def _due(self, thread_id: UUID) -> _Due | None:
        row = await self._database.fetch_one(_THREAD, (thread_id,))
        if row is None:
            return None
        run_id, agent_id, actor, former, covered, tokens = row
        agent = await self._agents.by_id(agent_id)
        if agent is None or not agent.summarise_history:
            return None
        rows = await self._database.fetch_all(_TURNS, (thread_id, covered, MAX_HISTORY_TURNS))
        turns = memory.due([StoredTurn(*found) for found in rows], tokens, agent.history_token_budget)
        return _Due(thread_id, run_id, Actor(**actor), agent, former, turns) if turns else None

    async def _ask(self, request: ModelRequest, token_budget: int) -> _Summary:
        pieces: list[str] = []
        finished: Finished | None = None
        async with self._port.stream(request) as batches:
            async for batch in batches:
                pieces += [event.text for event in batch if isinstance(event, TextDelta)]
                finished = next((event for event in batch if isinstance(event, Finished)), finished)
        text = memory.as_memory_text("".join(pieces), token_budget)
        if finished is None or finished.reason == "content_filter" or not text:
            raise ModelError("model_invalid_response", "The model wrote no summary.")
        return _Summary(text, finished.usage)

    async def _screened(self, made: _Summary, due: _Due) -> _Summary:
        """What guardrail policies let pass of it: it is stored, and shown to the model as long as its thread goes on."""
        screen = await registry.screen(due.agent.guardrails)
        checked = await screen.check(Stage.OUTPUT, made.text)
        of_findings.count(checked.findings)
        if checked.blocked is not None:
            raise ModelError("model_content_filter", "A guardrail policy withholds the summary.")
        return replace(made, text=checked.text, findings=checked.findings)

    async def _keep(self, due: _Due, asked: _Asked, made: _Summary, started: datetime) -> None:
        """The summary and its audit entry, committed together."""
        last = next(turn for turn in reversed(due.turns) if turn.messages)
        up_to, last_message_id = due.turns[-1].position, last.messages[-1]["id"]
        spent = asked.spent(made)
        usage, name = spent.usage, spent.model
        tokens = len(made.text) // CHARACTERS_PER_TOKEN + 1
        row = (uuid7(), up_to, last_message_id, made.text, tokens, name.model, usage.input_tokens, usage.output_tokens)
        details = {
            "kind": "summary",
            "turns": [due.turns[0].position, up_to],
            "text": made.text,
            "duration_ms": round((datetime.now(UTC) - started).total_seconds() * 1000),
            **spent.as_detail(),
            "guardrails": of_findings.as_details(made.findings),
        }
        unit = self._settled(due, asked, spent.amounts())
        await self._write(unit, _entry(due, Outcome.SUCCESS, "", details), (_KEEP, (*row, due.thread_id)))
        metrics.model_turns.labels(outcome="ok", **metrics.model_labels(name.provider, name.model)).inc()
        metrics.count_tokens(name.provider, name.model, usage.input_tokens, usage.output_tokens)
        logger.info("the older part of a thread was summarised", extra={"thread_id": str(due.thread_id)})

    async def _failed(self, due: _Due, asked: _Asked, code: str) -> None:
        """Older messages are left out until a summary succeeds."""
        logger.warning("a thread could not be summarised", extra={"thread_id": str(due.thread_id), "code": code})
        name = asked.name
        metrics.model_turns.labels(outcome=code, **metrics.model_labels(name.provider, name.model)).inc()
        details = {"kind": "summary", "provider": name.provider, "model": name.model, "code": code}
        unit = self._settled(due, asked, Amounts())
        await self._write(unit, _entry(due, Outcome.FAILURE, code, details))

    @staticmethod
    def _settled(due: _Due, asked: _Asked, used: Amounts) -> Unit:
        unit = Unit()
        if asked.holds:
            unit.add(SETTLED_ROWS, settlement(due.run_id, turn_slot(_SLOT), used))
        return unit

    async def _write(self, unit: Unit, audit_entry: AuditEntry, *statements: tuple[str, tuple[Any, ...]]) -> None:
        audit_rows.add_to(unit, audit_entry)
        async with self._database.connection() as connection, connection.pipeline():
            for statement, parameters in (*statements, *unit.statements()):
                await connection.execute(statement, parameters)
            await connection.commit()


def _may_use(request: ModelRequest, price: Price | None) -> Amounts:
    usage = Usage(estimated_input(request), request.max_output_tokens or 0)
    cost = None if price is None else nano_dollars(price.cost(usage))
    return Amounts(tokens=usage.input_tokens + usage.output_tokens, cost=cost)


def _entry(due: _Due, outcome: Outcome, reason: str, details: dict[str, Any]) -> AuditEntry:
    return entry(
        actions.MODEL_TURN,
        actor=due.actor,
        outcome=outcome,
        target=Target("thread", str(due.thread_id)),
        reason=reason,
        run_id=due.run_id,
        thread_id=due.thread_id,
        details=details,
    )
