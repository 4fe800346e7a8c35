"""What a run's model turns use: reserved under the budgets before a turn, priced and settled when it is over.

A turn that is broken off is settled, too, with an estimate where the provider has not counted: whoever stops each answer before its
end pays for what was written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import orjson

from agentbackend.foundation import metrics
from audit import actions
from audit.entry import Outcome
from orchestration import history
from orchestration.model_port import ModelRequest, Usage
from orchestration.model_providers.catalogue import NOTHING_KNOWN, ModelCatalogue, Models, Price
from orchestration.model_providers.names import ModelName
from orchestration.model_turn import StreamedTurn
from orchestration.run_record import RunRecord
from orchestration.run_task import AnswerStoppedError
from tools.governance.budget_ledger import RELEASED_ROWS, SETTLED_ROWS, ledger, release, settlement, turn_slot
from tools.governance.budgets import Amounts, OverBudgetError, nano_dollars

EXPECTED_OUTPUT_TOKENS: Final = 1000
"""What a turn is expected to write where the agent sets no limit. The settlement corrects it."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one turn came to: whose tokens, how many, and their cost (None: the model has no price). `estimated`: the provider
    did not count."""

    model: ModelName
    usage: Usage
    cost: Decimal | None
    estimated: bool

    def as_detail(self) -> dict[str, Any]:
        """For the turn's step and its audit entry."""
        detail: dict[str, Any] = {
            "provider": self.model.provider,
            "model": self.model.model,
            "usage": self.usage.as_dict(),
            "cost": None if self.cost is None else str(self.cost),
        }
        return {**detail, "estimated": True} if self.estimated else detail

    def amounts(self) -> Amounts:
        """What budgets count of it."""
        cost = 0 if self.cost is None else nano_dollars(self.cost)
        return Amounts(tokens=self.usage.input_tokens + self.usage.output_tokens, cost=cost)


@dataclass(slots=True)
class Spending:
    """Keeps a run's model turns within the budgets of its caller, and counts what they use."""

    record: RunRecord
    catalogue: ModelCatalogue
    _models: Models = field(default=NOTHING_KNOWN)
    _slot: str = ""

    async def begin(self, number: int, request: ModelRequest) -> list[str]:
        """Set aside what the run's turn of this number may use; returns the names of the models to ask, the first first.

        Under a budget of costs only models with a price are asked. Raises AnswerStoppedError when the turn does not fit into a budget.
        """
        task = self.record.task
        self._models = await self.catalogue.models()
        names = list(dict.fromkeys([task.model, *task.agent.fallback_models]))
        if await ledger.counts_costs(task.agent.slug, task.actor):
            names = [name for name in names if self._price_of(name) is not None] or names
        try:
            is_reserved = await ledger.reserve_turn(
                task.id, number, task.agent.slug, task.actor, lambda: self._may_use(request, names)
            )
        except OverBudgetError as over:
            raise self._stopped(over) from over
        self._slot = turn_slot(number) if is_reserved else ""
        self.record.holds_budgets |= is_reserved
        return names

    def settle(self, turn: StreamedTurn, answered_by: str, request: ModelRequest) -> Spent | None:
        """Replace what was reserved by what was used, in the journal's unit that ends the turn; also when the turn was broken off.

        `answered_by` empty: no model had answered, so nothing was used, and None comes back.
        """
        spent = self._spent(turn, self._models.named(answered_by), request) if answered_by else None
        if self._slot:
            used = Amounts() if spent is None else spent.amounts()
            self.record.journal.add(SETTLED_ROWS, settlement(self.record.task.id, self._slot, used))
            self._slot = ""
        if spent is not None:
            self.record.totals.add(spent.model.provider, spent.model.model, spent.usage, spent.cost)
            metrics.count_tokens(
                spent.model.provider, spent.model.model, spent.usage.input_tokens, spent.usage.output_tokens
            )
        return spent

    def named(self, name: str) -> ModelName:
        """What an agent's name of a model means."""
        return self._models.named(name)

    def release(self) -> None:
        """Give back what the run holds, with its end."""
        if self.record.holds_budgets:
            self.record.journal.add(RELEASED_ROWS, release(self.record.task.id))

    def _price_of(self, name: str) -> Price | None:
        return self._models.price_of(self._models.named(name))

    def _may_use(self, request: ModelRequest, names: list[str]) -> Amounts:
        """The most that is expected of the turn, whichever of the models answers."""
        usage = Usage(estimated_input(request), request.max_output_tokens or EXPECTED_OUTPUT_TOKENS)
        prices = [self._price_of(name) for name in names]
        costs = [nano_dollars(price.cost(usage)) for price in prices if price is not None]
        known = len(costs) == len(prices)
        return Amounts(tokens=usage.input_tokens + usage.output_tokens, cost=max(costs, default=0) if known else None)

    def _spent(self, turn: StreamedTurn, name: ModelName, request: ModelRequest) -> Spent:
        counted = turn.usage if turn.usage and (turn.usage.input_tokens or turn.usage.output_tokens) else None
        usage, price = counted or estimated_usage(request, turn), self._models.price_of(name)
        return Spent(name, usage, None if price is None else price.cost(usage), estimated=counted is None)

    def _stopped(self, over: OverBudgetError) -> AnswerStoppedError:
        self.record.audit(
            actions.BUDGET_REFUSED,
            outcome=Outcome.DENIED,
            reason="budget_exceeded",
            policy_version=over.rule.policy_version,
            details={"budget": over.rule.name, "message": str(over), "before": "model turn"},
        )
        metrics.budget_refusals.labels(what=over.rule.what.value).inc()
        return AnswerStoppedError("budget", f"I stopped here. {over}", **over.as_extra())


def estimated_input(request: ModelRequest) -> int:
    """Tokens that a request is likely to be, media at a flat rate."""
    characters = sum(_characters(message) for message in request.messages)
    if request.tools:
        characters += len(orjson.dumps(request.tools))
    return characters // history.CHARACTERS_PER_TOKEN


def estimated_usage(request: ModelRequest, turn: StreamedTurn) -> Usage:
    """What a turn is likely to have used, where its provider has not counted."""
    written = len(turn.text) + len(turn.reasoning) + len(turn.trailing_text)
    written += sum(len(call.name) + len(call.arguments) for call in turn.tool_calls)
    read, wrote = estimated_input(request), -(-written // history.CHARACTERS_PER_TOKEN)
    return Usage(read, wrote, read + wrote)


def _characters(message: dict[str, Any]) -> int:
    content = message.get("content")
    size = history.MESSAGE_OVERHEAD_TOKENS * history.CHARACTERS_PER_TOKEN
    if isinstance(content, str):
        size += len(content)
    for part in content if isinstance(content, list) else ():
        is_text = part.get("type") == "text"
        size += len(part["text"]) if is_text else history.MEDIA_TOKENS * history.CHARACTERS_PER_TOKEN
    for call in message.get("tool_calls", ()):
        size += len(call["function"]["name"]) + len(call["function"]["arguments"])
    return size
