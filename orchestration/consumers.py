"""The AG-UI endpoint: Channels consumers that begin runs and stream them.

A consumer stands behind gateway authentication, which has read the whole body and put `actor`, `request_id` and `session_id` into the
scope. It answers errors before any header; once the stream is open, errors are events. A consumer's end never ends its run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qsl, quote

import orjson
from channels.consumer import AsyncConsumer
from channels.exceptions import StopConsumer
from opentelemetry import propagate
from opentelemetry.context import Context as TraceContext
from psycopg import Error as DatabaseError
from psycopg_pool import PoolTimeout

from agentbackend.foundation import metrics
from agentbackend.foundation.identifiers import is_public_id, uuid7
from agentbackend.foundation.problems import Problem
from audit import actions
from audit.actor import Actor
from audit.entry import Outcome, Target, entry
from orchestration import events as ev
from orchestration.dialects import Dialect, choose_dialect
from orchestration.engine import Engine, RunRequest
from orchestration.run_input import RunInput, parse_run_input, require_storable, single_message_input
from orchestration.store import RunReference, find_by_idempotency_key, find_run, standing_thread

logger = logging.getLogger(__name__)

DEFAULT_MESSAGE = "What is the weather like in London?"
MAX_MESSAGE_CHARACTERS = 32_000
_CONFLICTS = frozenset({"idempotency_conflict", "thread_busy", "run_exists"})
_LINE_PARAMETERS = frozenset({"user_message", "thread_id", "protocol", "protocolVersion", "background"})

Headers = list[tuple[bytes, bytes]]

_STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a handler needs of an HTTP request. Header names are lower case."""

    method: str
    headers: dict[str, str]
    query: dict[str, str]
    body: bytes
    arguments: dict[str, str]


class Reader(Protocol):
    """What is streamed: pieces of an SSE body, and a way to stop watching."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def close(self) -> None: ...  # noqa: D102


class RunConsumer(AsyncConsumer):
    """What the endpoints share: gather the request, hand it to `answer`, stream, notice that the client left."""

    methods: ClassVar[tuple[str, ...]] = ("GET",)
    channel_layer_alias = (
        "none"  # viewers are woken directly; a layer's channel for each stream would cost and serve nothing
    )

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._body: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._run: RunReference | None = None
        self._opened = False

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Channels' own dispatch looks for old ORM connections in a thread, per message; this path has none."""
        if message["type"] == "http.request":
            await self.http_request(message)
        else:
            await self.http_disconnect(message)

    @property
    def actor(self) -> Actor:
        """Who calls."""
        actor: Actor = self.scope["actor"]
        return actor

    async def http_request(self, message: dict[str, Any]) -> None:
        """Gather the body; answer in a task of its own, so that a disconnect is noticed meanwhile."""
        self._body.append(message.get("body", b""))
        if not message.get("more_body"):
            self._task = asyncio.get_running_loop().create_task(self._answer())

    async def http_disconnect(self, message: dict[str, Any]) -> None:
        """The client left: its reader goes, its run stays."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._record(actions.REQUEST_CLIENT_GONE)
        raise StopConsumer

    async def answer(self, request: HttpRequest) -> None:
        """Answer one request; a Problem raised before the first header becomes the answer."""
        raise NotImplementedError

    async def _answer(self) -> None:
        try:
            if self.scope["method"] not in self.methods:
                raise Problem("method_not_allowed", headers=((b"allow", ", ".join(self.methods).encode()),))
            await self.answer(self._request())
        except Problem as problem:
            await self._refuse(problem)
        except (DatabaseError, PoolTimeout, OSError):
            logger.exception("the database was not available for a request")
            await self._refuse(Problem("unavailable", headers=((b"retry-after", b"2"),)))
        except Exception:
            logger.exception("a request failed")
            await self._refuse(Problem("internal_error"))

    def _request(self) -> HttpRequest:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}
        return HttpRequest(
            method=self.scope["method"],
            headers=headers,
            query=_query(self.scope.get("query_string", b"")),
            body=b"".join(self._body),
            arguments=self.scope["url_route"]["kwargs"],
        )

    # --- answers

    async def stream(self, run: RunReference, follower: Reader, dialect: Dialect) -> None:
        """Open the answer and send the run's events until its terminal one."""
        self._run = run
        metrics.streams_open.inc()
        try:
            await self._start(200, [*_STREAM_HEADERS, *self._run_headers(run)])
            await self._send_events(follower, dialect)
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            follower.close()
            metrics.streams_open.dec()

    async def _send_events(self, follower: Reader, dialect: Dialect) -> None:
        try:
            async for piece in follower:
                await self.send({"type": "http.response.body", "body": piece, "more_body": True})
        except (DatabaseError, PoolTimeout, OSError):
            logger.warning("a stream ended because the log could not be read")
            await self._send_error(
                dialect, "stream_interrupted", "The event log cannot be read at the moment; resume later."
            )
        except Exception:
            logger.exception("a stream failed")
            await self._send_error(dialect, "stream_interrupted", "The stream failed; resume with the last event's id.")

    async def _send_error(self, dialect: Dialect, code: str, message: str) -> None:
        frame = dialect.error_frame(code, message)
        await self.send({"type": "http.response.body", "body": frame, "more_body": True})

    async def send_json(
        self, status: int, document: dict[str, Any], headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Answer with a JSON document."""
        await self._start(status, [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), *headers])
        await self.send({"type": "http.response.body", "body": orjson.dumps(document), "more_body": False})

    async def send_nothing_yet(self, thread_id: str, run_id: str) -> None:
        """A stream of a thread that does not exist yet: it begins and ends."""
        events = (ev.RunStarted(thread_id=thread_id, run_id=run_id), ev.RunFinished(thread_id=thread_id, run_id=run_id))
        await self._start(200, _STREAM_HEADERS)
        body = b"".join(b"data: %b\n\n" % ev.encode(event) for event in events)
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def send_nothing(self) -> None:
        """Answer 204: there is nothing to add."""
        await self._start(204, [(b"cache-control", b"no-store")])
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _refuse(self, problem: Problem) -> None:
        if self._opened:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        metrics.requests_refused.labels(code=problem.code).inc()
        self._record(
            actions.REQUEST_REFUSED, outcome=Outcome.DENIED, reason=problem.code, details=_refusal_details(problem)
        )
        body = problem.body(self.scope.get("request_id", ""))
        headers: Headers = [
            (b"content-type", b"application/problem+json"),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await self._start(
            problem.kind.status, [*headers, (b"content-length", str(len(body)).encode()), *problem.headers]
        )
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, status: int, headers: Headers) -> None:
        self._opened = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    @staticmethod
    def _run_headers(run: RunReference) -> Headers:
        return [(b"x-run-id", run.public_id.encode()), (b"x-thread-id", run.thread_public_id.encode())]

    def _record(
        self,
        action: str,
        *,
        outcome: Outcome = Outcome.SUCCESS,
        reason: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        run = self._run
        self.engine.record(
            entry(
                action,
                actor=self.actor,
                outcome=outcome,
                target=Target("address", self.scope["path"]),
                reason=reason,
                run_id=run.id if run else None,
                request_id=self.scope.get("request_id", ""),
                details=details,
            )
        )

    # --- beginning and resuming

    async def begin(
        self,
        run_input: RunInput,
        dialect: Dialect,
        request: HttpRequest,
        *,
        agent: str = "",
        standing_key: str | None = None,
    ) -> None:
        """Create a run and stream it."""
        key, digest = _idempotency(request, agent)
        wish = RunRequest(
            actor=self.actor,
            run_input=run_input,
            agent_slug=agent,
            standing_key=standing_key,
            idempotency_key=key,
            idempotency_digest=digest,
            background=_in_background(run_input, request.query),
            request_id=self.scope.get("request_id", ""),
            trace_context=_trace_context(request.headers),
        )
        if await self._was_begun_before(wish, dialect):
            return
        try:
            # A client that leaves in this moment must not leave a run behind that is stored and not carried out.
            run = await asyncio.shield(self.engine.start_run(wish))
        except Problem as problem:
            # The same request may have come twice in one moment, and the other was quicker.
            if problem.code in _CONFLICTS and await self._was_begun_before(wish, dialect):
                return
            raise
        if wish.background:
            await self._accepted(run)
            return
        await self.stream(run, self.engine.follow(run, dialect, just_started=True), dialect)

    async def _was_begun_before(self, wish: RunRequest, dialect: Dialect) -> bool:
        """Whether the same request came before: then its run is the answer, from the beginning."""
        if wish.idempotency_key is None:
            return False
        run = await find_by_idempotency_key(
            self.engine.database, self.actor, wish.idempotency_key, wish.idempotency_digest
        )
        if run is None:
            return False
        if wish.background:
            await self._accepted(run)
        else:
            await self.resume(run, 0, dialect)
        return True

    async def _accepted(self, run: RunReference) -> None:
        """A run in the background: where to follow it."""
        self._run = run
        address = f"/ag-ui/runs/{quote(run.public_id, safe='')}"
        document = {
            "runId": run.public_id,
            "threadId": run.thread_public_id,
            "status": run.status,
            "events": f"{address}/events",
            "cancel": f"{address}/cancel",
        }
        headers = [*self._run_headers(run), (b"location", f"{address}/events".encode())]
        await self.send_json(202, document, headers)

    async def resume(self, run: RunReference, after: int, dialect: Dialect) -> None:
        """Stream a run that exists from after event `after`; 204 when there is nothing left."""
        self._run = run
        self._record(actions.REQUEST_REPLAYED, details={"after": after})
        if run.is_terminal and after >= run.last_seq:
            await self.send_nothing()
            return
        await self.stream(run, self.engine.follow(run, dialect, after=after), dialect)


class EventsConsumer(RunConsumer):
    """`/ag-ui/events`: a run on one line (GET), or from a RunAgentInput (POST)."""

    methods: ClassVar[tuple[str, ...]] = ("GET", "POST")

    async def answer(self, request: HttpRequest) -> None:
        """Begin a run, or resume the one that Last-Event-ID names."""
        if request.method == "POST":
            await self._post(request)
        elif "last-event-id" in request.headers:
            await self._resume(request)
        else:
            await self._get(request)

    async def _post(self, request: HttpRequest) -> None:
        require_json(request.headers)
        run_input = parse_run_input(request.body)
        dialect = _dialect(request.query, "ag-ui", run_input.protocol_version)
        await self.begin(run_input, dialect, request)

    async def _get(self, request: HttpRequest) -> None:
        _refuse_others(request.query, _LINE_PARAMETERS)
        dialect = _dialect(request.query, "envelope", request.query.get("protocolVersion", "1.0"))
        text = request.query.get("user_message", DEFAULT_MESSAGE)
        require_storable(text, "user_message")
        if not text.strip() or len(text) > MAX_MESSAGE_CHARACTERS:
            raise Problem("invalid_input", f"Expected 1 to {MAX_MESSAGE_CHARACTERS} characters.", field="user_message")
        thread_id, standing_key = await self._thread(request.query)
        try:
            await self.begin(single_message_input(thread_id, text), dialect, request, standing_key=standing_key)
        except Problem as problem:
            if problem.code != "thread_busy" or "thread_id" in request.query:
                raise
            # Another request has begun a run in the standing thread in the same moment.
            await self.begin(single_message_input(str(uuid7()), text), dialect, request)

    async def _thread(self, query: dict[str, str]) -> tuple[str, str | None]:
        """The thread to go on in: the one that is named, the caller's standing one, or a fresh one."""
        named = query.get("thread_id")
        if named is not None:
            if not is_public_id(named):
                raise Problem("invalid_input", "Expected 1 to 128 visible ASCII characters.", field="thread_id")
            return named, None
        standing_key = self.scope.get("session_id") or "-"
        standing = await standing_thread(self.engine.database, self.actor, standing_key)
        return (standing, None) if standing else (str(uuid7()), standing_key)

    async def _resume(self, request: HttpRequest) -> None:
        dialect = _dialect(request.query, "envelope", "1.0")
        public_id, after = _event_id(request.headers["last-event-id"])
        await self.resume(await find_run(self.engine.database, self.actor, public_id), after, dialect)


class RunEventsConsumer(RunConsumer):
    """`GET /ag-ui/runs/{runId}/events`: a run's events after Last-Event-ID or `?after=`, then the live tail."""

    async def answer(self, request: HttpRequest) -> None:
        """Find the run and follow it."""
        dialect = _dialect(request.query, "ag-ui", request.query.get("protocolVersion", "1.0"))
        run = await find_run(self.engine.database, self.actor, request.arguments["run_id"])
        await self.resume(run, _cursor(request, run.public_id), dialect)


class CancelConsumer(RunConsumer):
    """`POST /ag-ui/runs/{runId}/cancel`: stop a run wherever it is carried out."""

    methods = ("POST",)

    async def answer(self, request: HttpRequest) -> None:
        """Ask for the cancellation; says whether the run was still going on."""
        stopped = await self.engine.cancel(self.actor, request.arguments["run_id"])
        await self.send_json(202 if stopped else 200, {"runId": request.arguments["run_id"], "cancelling": stopped})


class NoSuchAddressConsumer(RunConsumer):
    """Everything else under the prefix."""

    methods = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

    async def answer(self, request: HttpRequest) -> None:
        """404."""
        raise Problem("not_found", "There is nothing under this address.")


def _query(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise Problem("invalid_input", "The query string cannot be read as UTF-8.", field="(query)") from error
    query = dict(pairs)
    if len(query) < len(pairs):
        repeated = next(name for name in query if sum(found == name for found, _ in pairs) > 1)
        raise Problem("invalid_input", "Given more than once.", field=repeated[:100])
    return query


def _refuse_others(query: dict[str, str], known: frozenset[str]) -> None:
    """A parameter that is not known is a mistake of the caller's, and ignored it would do something else than was meant."""
    unknown = next((name for name in query if name not in known), None)
    if unknown is not None:
        raise Problem("invalid_input", f"Not known here. Known are: {', '.join(sorted(known))}.", field=unknown[:100])


def _dialect(query: dict[str, str], default: str, protocol_version: str | None) -> Dialect:
    name = query.get("protocol", default)
    if name not in ("ag-ui", "envelope"):
        raise Problem("invalid_input", "Expected ag-ui or envelope.", field="protocol")
    return choose_dialect(name, protocol_version)


def require_json(headers: dict[str, str]) -> None:
    """Refuse a body of another type."""
    content_type = headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if content_type != "application/json":
        raise Problem("unsupported_media_type", field="Content-Type")


def _event_id(value: str) -> tuple[str, int]:
    public_id, _, number = value.rpartition(".")
    if not is_public_id(public_id) or not number.isascii() or not number.isdigit() or len(number) > 18:
        raise Problem("invalid_header", "Expected an event id of a run: runId.number.", field="Last-Event-ID")
    return public_id, int(number)


def _cursor(request: HttpRequest, public_id: str) -> int:
    """The event to go on after: Last-Event-ID first (a browser's EventSource sends it), else `?after=`, else 0."""
    if "last-event-id" in request.headers:
        named, after = _event_id(request.headers["last-event-id"])
        if named != public_id:
            raise Problem("invalid_header", "The event belongs to another run.", field="Last-Event-ID")
        return after
    after_text = request.query.get("after", "0")
    if not after_text.isascii() or not after_text.isdigit() or len(after_text) > 18:
        raise Problem("invalid_input", "Expected a number.", field="after")
    return int(after_text)


def _idempotency(request: HttpRequest, agent: str) -> tuple[str | None, str]:
    """The Idempotency-Key and the digest of what it stands for: (None, "") without one. `agent` is empty for the default one."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None, ""
    if not is_public_id(key):
        raise Problem("invalid_header", "Expected 1 to 128 visible ASCII characters.", field="Idempotency-Key")
    query = "&".join(f"{name}={value}" for name, value in sorted(request.query.items()))
    asked = (request.method.encode(), agent.encode(), query.encode(), request.body)
    return key, sha256(b"\0".join(asked)).hexdigest()


def _in_background(run_input: RunInput, query: dict[str, str]) -> bool:
    """Whether a worker shall do the run: `?background=1`, or `background: true` among the forwarded properties."""
    wanted = query.get("background")
    if wanted is not None:
        if wanted not in ("0", "1", "true", "false"):
            raise Problem("invalid_input", "Expected 1 or 0.", field="background")
        return wanted in ("1", "true")
    properties = run_input.forwarded_props
    return isinstance(properties, dict) and properties.get("background") is True


def _refusal_details(problem: Problem) -> dict[str, Any]:
    return {"status": problem.kind.status, "detail": problem.detail, "field": problem.field}


def _trace_context(headers: dict[str, str]) -> TraceContext | None:
    return propagate.extract(headers) if "traceparent" in headers else None
