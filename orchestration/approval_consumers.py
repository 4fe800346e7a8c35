"""Addresses of approvals: questions about calls, read and decided outside a run's `resume`.

A decision is answered once it is stored. When it was the last one that its thread waited for, the run that carries it out is begun at
once, in the background, on whatever process has room.
"""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

import orjson

from agentbackend.foundation.problems import Problem
from orchestration.answers import Answer
from orchestration.approvals import MAX_PAGE, STATUSES, decide_asked, find_asked, list_asked, may_decide
from orchestration.consumers import HttpRequest, RunConsumer, require_json
from orchestration.run_input import require_plain, require_storable

_DECISIONS = {"approve": True, "deny": False}
_FIELDS = frozenset({"decision", "reason", "editedArgs"})


class ApprovalsConsumer(RunConsumer):
    """`GET /ag-ui/approvals`: what the caller has asked, and what they may decide by their role."""

    async def answer(self, request: HttpRequest) -> None:
        """A page, newest first; `status` is `open` unless another is named."""
        status = request.query.get("status", "open")
        if status not in STATUSES:
            raise Problem("invalid_input", f"Expected {', '.join(STATUSES)}.", field="status")
        found, cursor = await list_asked(
            self.engine.database, self.actor, status=status, limit=_limit(request), before=_cursor(request)
        )
        await self.send_json(200, {"approvals": found, "nextCursor": cursor})


class ApprovalConsumer(RunConsumer):
    """`GET` and `POST /ag-ui/approvals/{id}`: one question, and its answer."""

    methods: ClassVar[tuple[str, ...]] = ("GET", "POST")

    async def answer(self, request: HttpRequest) -> None:
        """The question as it stands, or after the decision that was posted."""
        interrupt_id = request.arguments["approval_id"]
        if request.method == "POST":
            require_json(request.headers)
            given = _answer(request.body)
            await self._decide(interrupt_id, given)
            return
        asked = await find_asked(self.engine.database, self.actor, interrupt_id)
        await self.send_json(200, asked.as_document(self.actor, may_decide=await may_decide(asked, self.actor)))

    async def _decide(self, interrupt_id: str, given: Answer) -> None:
        database = self.engine.database
        asked = await find_asked(database, self.actor, interrupt_id)
        agent = await self.engine.agents.by_id(asked.agent_id)
        await decide_asked(
            database,
            self.actor,
            asked,
            given,
            tools=agent.tools if agent else None,
            guardrails=agent.guardrails if agent else None,
            request_id=self.scope.get("request_id", ""),
        )
        await self.engine.carry_out_decisions(asked.thread_id)
        stands = await find_asked(database, self.actor, interrupt_id)
        document = stands.as_document(self.actor, may_decide=False)
        await self.send_json(200, {name: document[name] for name in _ANSWERED if name in document})


_ANSWERED = ("id", "status", "threadId", "runId", "decidedAt")


def _answer(body: bytes) -> Answer:
    """Read `{"decision": "approve" | "deny", "reason"?, "editedArgs"?}`."""
    document = _document(body)
    unknown = next((name for name in document if name not in _FIELDS), None)
    if unknown is not None:
        raise Problem("invalid_input", f"Not known here. Known are: {', '.join(sorted(_FIELDS))}.", field=unknown[:100])
    decision = document.get("decision")
    if not isinstance(decision, str) or decision not in _DECISIONS:
        raise Problem("invalid_input", "Expected approve or deny.", field="decision")
    return Answer.read(_DECISIONS[decision], document)


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("invalid_json", "The body is not valid JSON.", field="(body)") from error
    if not isinstance(document, dict):
        raise Problem("invalid_input", "Expected an object.", field="(body)")
    require_plain(document.get("editedArgs"), "editedArgs")
    _require_storable(document.get("editedArgs"), "editedArgs")
    return document


def _require_storable(value: Any, where: str) -> None:
    """NUL can be written in JSON and kept nowhere; nesting is bounded already."""
    if isinstance(value, str):
        require_storable(value, where)
    elif isinstance(value, dict):
        for key, item in value.items():
            require_storable(key, where)
            _require_storable(item, where)
    elif isinstance(value, list):
        for item in value:
            _require_storable(item, where)


def _limit(request: HttpRequest) -> int:
    text = request.query.get("limit", "20")
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_PAGE:
        raise Problem("invalid_input", f"Expected a number from 1 to {MAX_PAGE}.", field="limit")
    return int(text)


def _cursor(request: HttpRequest) -> UUID | None:
    text = request.query.get("cursor", "")
    try:
        return UUID(text) if text else None
    except ValueError as error:
        raise Problem("invalid_input", "Expected the nextCursor of an earlier answer.", field="cursor") from error
