"""What the tests of runs share: reading streams as a strict client does, and looking at what is stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from ag_ui.core import Event
from pydantic import TypeAdapter

from tests.running_service import Caller, Frame, RunningService

_EVENT = TypeAdapter(Event)

CLIENT_TIME = {"name": "get_client_time", "description": "The time where the user is", "parameters": {"type": "object"}}


def types(frames: Sequence[Frame]) -> list[str]:
    """The kinds of the events, in either protocol."""
    return [frame.event.get("type") or frame.event["event_type"] for frame in frames]


def events(frames: Sequence[Frame], kind: str) -> list[dict[str, Any]]:
    """The events of one kind."""
    return [frame.event for frame in frames if kind in (frame.event.get("type"), frame.event.get("event_type"))]


def text(frames: Sequence[Frame]) -> str:
    """All that the assistant said."""
    return "".join(event["delta"] for event in events(frames, "TEXT_MESSAGE_CONTENT"))


def user(content: Any) -> dict[str, Any]:
    """A user message."""
    return {"id": str(uuid4()), "role": "user", "content": content}


def assert_well_formed(frames: Sequence[Frame], run_id: str, *, first: int = 1) -> None:
    """The whole of a run (from event `first`): ids without gaps, valid events, all that opened closed, one terminal event."""
    assert [frame.id for frame in frames] == [f"{run_id}.{n}" for n in range(first, first + len(frames))]
    for frame in frames:
        _EVENT.validate_python(frame.event)
        assert None not in [value for name, value in frame.event.items() if name not in ("snapshot", "value")]
    assert [kind for kind in types(frames) if kind in ("RUN_FINISHED", "RUN_ERROR")] == [types(frames)[-1]]
    if first == 1:
        assert types(frames)[0] == "RUN_STARTED"
        assert _left_open(frames) == set()


_OPENERS = {
    "TEXT_MESSAGE": "messageId", "TOOL_CALL": "toolCallId", "REASONING": "messageId", "REASONING_MESSAGE": "messageId",
}  # fmt: skip


def _left_open(frames: Sequence[Frame]) -> set[tuple[str, str]]:
    """Fold the run as the client's verifier does; asserts that nothing is used before it opens or opened twice."""
    still_open: set[tuple[str, str]] = set()
    for frame in frames:
        kind, event = frame.event["type"], frame.event
        if kind in ("STEP_STARTED", "STEP_FINISHED"):
            family, part, item = "STEP", "START" if kind == "STEP_STARTED" else "END", event["stepName"]
        elif kind.startswith("SUBAGENT_"):
            family, part, item = "SUBAGENT", "START" if kind == "SUBAGENT_STARTED" else "END", event["subagentRunId"]
        else:
            family, _, part = kind.rpartition("_")
            if family not in _OPENERS or part not in ("START", "CONTENT", "ARGS", "END"):
                continue
            item = event[_OPENERS[family]]
        if part == "START":
            assert (family, item) not in still_open, f"{family} {item} opens twice"
            still_open.add((family, item))
        else:
            assert (family, item) in still_open, f"{kind} for {item}, which is not open"
            if part == "END":
                still_open.discard((family, item))
    return still_open


def eventually(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Wait for a condition to hold and return its value; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"in {seconds:g} s it did not come to this: {what}"
        time.sleep(0.02)
    return found


class Reader:
    """Reads a stream in a thread of its own, so that a test can do something meanwhile."""

    def __init__(self, response_frames: Iterator[Frame]) -> None:
        self.frames: list[Frame] = []
        self._error: BaseException | None = None
        self._source = response_frames
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self.frames.extend(self._source)
        except BaseException as error:
            self._error = error

    def whole(self, seconds: float = 30.0) -> list[Frame]:
        """All frames, once the stream has ended."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"the stream did not end; it sent {types(self.frames)}"
        if self._error is not None:
            raise self._error
        return self.frames


@contextmanager
def following(service: RunningService, caller: Caller, run_id: str, after: int = 0) -> Iterator[Iterator[Frame]]:
    """The stream of a run that exists."""
    path = f"/ag-ui/runs/{run_id}/events?after={after}"
    with service.open_stream(caller, "GET", path) as (response, frames):
        assert response.status_code == 200, response.read()
        yield frames


class Stored:
    """What the database holds about runs, by the ids that clients know."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def values(self, query: str, *parameters: Any) -> list[Any]:
        """The first column of the rows."""
        return [row[0] for row in self._connection.execute(query, parameters).fetchall()]

    def run(self, run_id: str) -> dict[str, Any]:
        """The run's row."""
        cursor = self._connection.execute("SELECT * FROM orchestration_run WHERE public_id = %s", (run_id,))
        [row] = cursor.fetchall()
        assert cursor.description is not None
        return dict(zip([column.name for column in cursor.description], row, strict=True))

    def audit(self, run_id: str) -> list[str]:
        """The actions of the run's audit entries, in the order of their ids."""
        return self.values(
            "SELECT a.action FROM audit_events a JOIN orchestration_run r ON r.id = a.run_id WHERE r.public_id = %s "
            "ORDER BY a.id",
            run_id,
        )

    def log(self, run_id: str) -> list[bytes]:
        """The run's events as they are stored."""
        rows = self._connection.execute(
            "SELECT e.seq_from, e.seq_to, e.events FROM orchestration_runevents e JOIN orchestration_run r ON r.id = e.run_id "
            "WHERE r.public_id = %s ORDER BY e.seq_from",
            (run_id,),
        ).fetchall()
        lines: list[bytes] = []
        for seq_from, seq_to, stored in rows:
            assert seq_from == len(lines) + 1
            lines += bytes(stored).split(b"\n")
            assert seq_to == len(lines)
        return lines

    def rows_of(self, caller: Caller) -> tuple[int, int, int]:
        """How many threads, runs and turns belong to a caller."""
        owner = caller.id
        return (
            len(self.values("SELECT id FROM orchestration_thread WHERE owner_id = %s", owner)),
            len(self.values("SELECT id FROM orchestration_run WHERE owner_id = %s", owner)),
            len(
                self.values(
                    "SELECT c.id FROM conversation_turns c JOIN orchestration_thread t ON t.id = c.thread_id "
                    "WHERE t.owner_id = %s",
                    owner,
                )
            ),
        )


def patched(document: Any, operations: Sequence[dict[str, Any]]) -> Any:
    """A document after JSON Patch operations (RFC 6902), as a client applies them; it is changed."""
    for operation in operations:
        if operation["path"] == "":
            document = operation["value"]
            continue
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"][1:].split("/")]
        target = document
        for part in way:
            target = target[int(part)] if isinstance(target, list) else target[part]
        if isinstance(target, list):
            place = len(target) if last == "-" else int(last)
            if operation["op"] == "add":
                target.insert(place, operation["value"])
            elif operation["op"] == "remove":
                del target[place]
            else:
                target[place] = operation["value"]
            continue
        assert operation["op"] == "add" or last in target, f"{operation['path']} is not there"
        if operation["op"] == "remove":
            del target[last]
        else:
            target[last] = operation["value"]
    return document
