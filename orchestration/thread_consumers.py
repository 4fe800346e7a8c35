"""Addresses of agents and threads: what CopilotKit's browser client speaks to a server, and what any front end needs for its side bar.

Source: `@copilotkit/core` 1.75, transport "rest": `GET info`, `POST agent/{id}/run|connect`, `POST agent/{id}/stop/{threadId}`,
`GET threads`, `GET threads/{id}/messages|events|state`, `PATCH|DELETE threads/{id}`, `POST threads/{id}/archive`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import orjson

from agentbackend.foundation.problems import Problem
from audit import actions
from orchestration.consumers import HttpRequest, RunConsumer, require_json
from orchestration.dialects import AgUiDialect, LegacyAgUiDialect
from orchestration.joining import ThreadJoiner
from orchestration.run_input import parse_run_input, require_storable
from orchestration.threads import (
    MAX_PAGE,
    MAX_TITLE,
    change_thread,
    delete_thread,
    list_threads,
    read_thread,
    read_thread_events,
)

INFO_VERSION = "1.75.0"
"""The runtime's version that these addresses behave like."""


class InfoConsumer(RunConsumer):
    """`GET /ag-ui/info`: which agents there are, and which of the runtime's abilities."""

    async def answer(self, request: HttpRequest) -> None:
        """Every enabled agent, by its slug."""
        agents = await self.engine.agents.all()
        document = {
            "version": INFO_VERSION,
            "mode": "sse",
            "agents": {
                agent.slug: {"name": agent.name, "description": agent.description, "className": "Agent"}
                for agent in agents
            },
            "audioFileTranscriptionEnabled": False,
            "threadEndpoints": {"list": True, "inspect": True, "mutations": True, "realtimeMetadata": False},
        }
        await self.send_json(200, document)


class AgentRunConsumer(RunConsumer):
    """`POST /ag-ui/agent/{id}/run`: like POST /ag-ui/events, answered by the agent that is named."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def answer(self, request: HttpRequest) -> None:
        """Begin a run."""
        require_json(request.headers)
        run_input = parse_run_input(request.body)
        dialect = AgUiDialect() if run_input.protocol_version else LegacyAgUiDialect()
        await self.begin(run_input, dialect, request, agent=request.arguments["agent"])


class AgentConnectConsumer(RunConsumer):
    """`POST /ag-ui/agent/{id}/connect`: the thread as it stands, then what is going on in it."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def answer(self, request: HttpRequest) -> None:
        """Join the thread; one that does not exist yet has nothing to say."""
        require_json(request.headers)
        given = parse_run_input(request.body)
        await self.engine.agents.get(request.arguments["agent"])
        try:
            thread = await read_thread(self.engine.database, self.actor, given.thread_id)
        except Problem as problem:
            if problem.code != "not_found":
                raise
            thread = None
        if thread is None or thread.last_run is None:
            await self.send_nothing_yet(given.thread_id, given.run_id)
            return
        run = thread.last_run
        dialect = AgUiDialect() if given.protocol_version else LegacyAgUiDialect()
        self._run = run
        self._record(actions.REQUEST_REPLAYED, details={"joined": True})
        await self.stream(run, ThreadJoiner(self.engine, thread, run, dialect), dialect)


class AgentStopConsumer(RunConsumer):
    """`POST /ag-ui/agent/{id}/stop/{threadId}`: stop what is going on in a thread; `{runId}` stops that run only."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def answer(self, request: HttpRequest) -> None:
        """Ask for the cancellation; says whether there was something to stop."""
        wanted = _document(request).get("runId")
        await self.engine.agents.get(request.arguments["agent"])
        thread = await read_thread(self.engine.database, self.actor, request.arguments["thread_id"])
        active = thread.summary.active_run
        if (
            active is None
            or (wanted is not None and wanted != active)
            or not await self.engine.cancel(self.actor, active)
        ):
            await self.send_json(200, {"stopped": False, "message": "No such run is going on in this thread."})
            return
        await self.send_json(200, {"stopped": True, "interrupt": {"type": "stop", "runId": active}})


class ThreadsConsumer(RunConsumer):
    """`GET /ag-ui/threads`: the caller's threads, a page at a time."""

    async def answer(self, request: HttpRequest) -> None:
        """The page after `cursor`."""
        query = request.query
        found, following = await list_threads(
            self.engine.database,
            self.actor,
            agent=query.get("agentId") or None,
            archived=_flag(query, "includeArchived"),
            limit=_limit(query.get("limit", "50")),
            cursor=query.get("cursor", ""),
        )
        threads = [thread.as_document(self.actor) for thread in found]
        await self.send_json(200, {"threads": threads, "nextCursor": following})


class ThreadConsumer(RunConsumer):
    """`/ag-ui/threads/{id}`: read, rename, archive, delete."""

    methods: ClassVar[tuple[str, ...]] = ("GET", "PATCH", "DELETE")

    async def answer(self, request: HttpRequest) -> None:
        """What the method says."""
        public_id = request.arguments["thread_id"]
        database, request_id = self.engine.database, self.scope.get("request_id", "")
        if request.method == "DELETE":
            await delete_thread(database, self.actor, public_id, request_id=request_id)
            await self.send_nothing()
            return
        if request.method == "PATCH":
            title, archived = _changes(_document(request))
            summary = await change_thread(
                database, self.actor, public_id, title=title, archived=archived, request_id=request_id
            )
        else:
            summary = (await read_thread(database, self.actor, public_id)).summary
        await self.send_json(200, summary.as_document(self.actor))


class ThreadArchiveConsumer(RunConsumer):
    """`POST /ag-ui/threads/{id}/archive`: leave it out of lists."""

    methods: ClassVar[tuple[str, ...]] = ("POST",)

    async def answer(self, request: HttpRequest) -> None:
        """Put it into the archive."""
        summary = await change_thread(
            self.engine.database,
            self.actor,
            request.arguments["thread_id"],
            archived=True,
            request_id=self.scope.get("request_id", ""),
        )
        await self.send_json(200, summary.as_document(self.actor))


class ThreadPartConsumer(RunConsumer):
    """`GET /ag-ui/threads/{id}/messages|events|state`."""

    async def answer(self, request: HttpRequest) -> None:
        """The part that is named."""
        public_id, part = request.arguments["thread_id"], request.arguments["part"]
        if part == "events":
            await self.send_json(200, {"events": await read_thread_events(self.engine.database, self.actor, public_id)})
            return
        thread = await read_thread(self.engine.database, self.actor, public_id)
        await self.send_json(
            200, {"messages": thread.messages} if part == "messages" else {"state": thread.state or {}}
        )


def _document(request: HttpRequest) -> dict[str, Any]:
    """A body that is a JSON object; nothing is an empty one."""
    if not request.body:
        return {}
    try:
        document = orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise Problem("invalid_json", "The body is not valid JSON.", field="(body)") from error
    if not isinstance(document, dict):
        raise Problem("invalid_input", "Expected a JSON object.", field="(body)")
    return document


def _changes(document: dict[str, Any]) -> tuple[str | None, bool | None]:
    """The title and the archive flag that a body asks for; None for what it leaves alone."""
    field = "title" if "title" in document else "name"
    title, archived = document.get(field), document.get("archived")
    if title is not None:
        if not isinstance(title, str) or not 1 <= len(title.strip()) <= MAX_TITLE:
            raise Problem("invalid_input", f"Expected 1 to {MAX_TITLE} characters.", field=field)
        require_storable(title, field)
    if archived is not None and not isinstance(archived, bool):
        raise Problem("invalid_input", "Expected true or false.", field="archived")
    if title is None and archived is None:
        raise Problem("invalid_input", "Nothing is to be changed.", field="(body)")
    return title.strip() if title is not None else None, archived


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= MAX_PAGE:
        raise Problem("invalid_input", f"Expected 1 to {MAX_PAGE}.", field="limit")
    return int(text)


def _flag(query: dict[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in ("true", "false", "1", "0"):
        raise Problem("invalid_input", "Expected true or false.", field=name)
    return value in ("true", "1")
