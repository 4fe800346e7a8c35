"""Calls that the console makes to try a tool: through the one door, recorded in the name of who tries it.

A trial is a real call. It may be made of a tool that is still switched off, which is how a new tool is looked at before
anybody is offered it. Who may change a tool may try it, and nobody else: the change already decides what a call does.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import psycopg
from asgiref.sync import async_to_sync
from django.db import connection
from psycopg_pool import PoolTimeout

from agentbackend.foundation.database import database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.writer import UnitRejectedError, WriterStoppedError
from audit.actor import Actor
from tools.calls import CallContext, ToolCall, ToolResult
from tools.door import call_tool, request_for
from tools.governance.approvals import Approval
from tools.process import NotConfiguredError, recorder
from tools.registry import registry


class TrialError(Exception):
    """The call was not made; the text says why, to the person who wanted to try it."""


def try_tool(name: str, arguments: str, *, by: Actor, role: str, request_id: str) -> ToolResult:
    """Call a tool as a caller of this role would, and wait for the result; `arguments` is JSON text. Raises TrialError.

    For views that run on a thread of a process that serves: the call itself runs on the process's loop.
    """
    if not database.is_open:
        raise TrialError("This process does not serve, so it calls no tools. Try it in the running service.")
    try:
        context = CallContext(
            actor=replace(by, role=role),
            recorder=recorder(),
            request_id=request_id,
            origin="test",
            allow_disabled=True,
        )
        _let_go_of_the_database()
        return async_to_sync(_call)(ToolCall(str(uuid7()), name, arguments), context)
    except (NotConfiguredError, WriterStoppedError) as error:
        raise TrialError(f"The tool was not called: {error}.") from error
    except (UnitRejectedError, PoolTimeout, psycopg.OperationalError) as error:
        raise TrialError("The tool was not called: the call could not be recorded. Try again in a moment.") from error


async def _call(call: ToolCall, context: CallContext) -> ToolResult:
    registry.expire()  # what was saved a moment ago is what is tried
    request = await request_for(call, context.actor)
    if request is not None:  # who tries it approves it by trying
        approval = Approval(request.binding, interrupt_id="", decided_by=context.actor.id, decided_at=datetime.now(UTC))
        context = replace(context, approval=approval)
    return await call_tool(call, context)


def _let_go_of_the_database() -> None:
    """No connection is held while a tool is at work; Django opens another one when it needs it."""
    if not connection.in_atomic_block:
        connection.close()
