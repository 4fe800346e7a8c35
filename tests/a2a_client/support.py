"""Agents for tests: rows, peers that answer as a test says, and the sample agent in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from a2a.circuit import Circuit
from a2a.contract import RegisteredAgent
from a2a.delegation import Directory, Handover, RemoteAgent, delegate
from a2a.remote_cards import digest_of
from a2a.remote_peer import RemotePeer
from agentbackend.foundation.identifiers import uuid7
from audit.actor import Actor
from mock_a2a_server.card import CARD_PATH, card
from tests.running_service import ROOT, free_port
from tests.tools.remote_mcp import Asked, RemoteMcp, Reply, as_events, as_json
from tests.tools.support import KeepingRecorder, somebody
from tools.calls import CallContext, ToolCall, ToolResult

START_SECONDS = 30.0


class SampleProcess:
    """The sample agent, running."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    @property
    def card(self) -> dict[str, Any]:
        return card(self.url)

    @property
    def card_url(self) -> str:
        return self.url + CARD_PATH

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def sample_agent(folder: Path, **environment: str) -> Iterator[SampleProcess]:
    """Start it as its users do, on a free port; killed at the end."""
    port = free_port()
    log = folder / f"sample-{port}.log"
    scheme = "https" if "A2A_MOCK_CERT_FILE" in environment else "http"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mock_a2a_server"],
            cwd=ROOT, env={**os.environ, "A2A_MOCK_PORT": str(port), **environment}, stdout=output, stderr=output,
        )  # fmt: skip
    sample = SampleProcess(process, f"{scheme}://127.0.0.1:{port}", log)
    try:
        _wait_until_it_listens(sample, port)
        yield sample
    finally:
        sample.kill()


def _wait_until_it_listens(sample: SampleProcess, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert sample.process.poll() is None, sample.said()
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=5.0, trust_env=False)
            return
        except httpx.ConnectError:
            time.sleep(0.05)
        except httpx.TransportError:  # it listens, and wants TLS
            return
    raise AssertionError(sample.said())


def registered(card: dict[str, Any], **fields: Any) -> RegisteredAgent:
    """An agent whose card is accepted, as a process holds it."""
    values: dict[str, Any] = {
        "id": uuid7(), "name": f"peer-{uuid4().hex[:8]}", "title": "The peer", "card_url": "http://127.0.0.1/card",
        "key_set_url": "", "require_signature": False, "required_role": "", "credential": "", "credential_placement": "bearer",
        "credential_header": "", "client_certificate": "", "client_key": "", "trusted_ca": "", "timeout_seconds": 10.0,
        "side_effects": "unsafe", "accepted_digest": digest_of(card), "enabled": True, "accepted_card": card,
        "state": "accepted",
    }  # fmt: skip
    return RegisteredAgent(**{**values, **fields})


class Told:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.tasks: list[str] = []
        self.failures: list[tuple[str, str]] = []

    def started(self, delegation_id: str, agent: RemoteAgent, task: str) -> None:
        pass

    def accepted(self, peer_task_id: str) -> None:
        self.tasks.append(peer_task_id)

    def text(self, delta: str) -> None:
        self.pieces.append(delta)

    def finished(self, answer: str) -> None:
        pass

    def failed(self, code: str, message: str) -> None:
        self.failures.append((code, message))


class Delegations:
    """The door for one agent."""

    def __init__(self, agent: RegisteredAgent, circuit: Circuit | None = None) -> None:
        self.peer = RemotePeer(agent, circuit or Circuit())
        self.directory = Directory()
        self.directory.add(self.peer)
        self.recorder = KeepingRecorder()
        self.told = Told()
        self.run_id = uuid7()

    async def ask(
        self,
        task: str = "do it",
        *,
        actor: Actor | None = None,
        handover: Handover | None = None,
        call_id: str = "call-1",
        **arguments: Any,
    ) -> ToolResult:
        context = CallContext(actor or somebody(), self.recorder, run_id=self.run_id)
        call = ToolCall(call_id, self.peer.agent.tool_name, json.dumps({"task": task, **arguments}))
        return await delegate(call, context, self.told, directory=self.directory, handover=handover)


# --- a peer that answers as a test says

TASK = "task-of-the-peer"


def peer_card(remote: RemoteMcp, *, streaming: bool) -> dict[str, Any]:
    """Of an agent at the remote's address."""
    found = card(f"http://127.0.0.1:{remote.port}")
    return {**found, "supportedInterfaces": found["supportedInterfaces"][:1], "capabilities": {"streaming": streaming}}


def task(state: str, *, words: str = "", artifacts: dict[str, str] | None = None) -> dict[str, Any]:
    """A task as the protocol writes it."""
    status: dict[str, Any] = {"state": f"TASK_STATE_{state.upper()}"}
    if words:
        status["message"] = {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": words}]}
    shown = [{"artifactId": key, "parts": [{"text": text}]} for key, text in (artifacts or {}).items()]
    return {"id": TASK, "contextId": "context", "status": status, "artifacts": shown}


def status(state: str, words: str = "") -> dict[str, Any]:
    return {"statusUpdate": {"taskId": TASK, "contextId": "context", "status": task(state, words=words)["status"]}}


def artifact(*parts: dict[str, Any], append: bool = False, name: str = "a") -> dict[str, Any]:
    shown = {"artifactId": name, "parts": list(parts)}
    return {"artifactUpdate": {"taskId": TASK, "contextId": "context", "artifact": shown, "append": append}}


def answer(asked: Asked, result: dict[str, Any]) -> Reply:
    return as_json({"jsonrpc": "2.0", "id": asked.message["id"], "result": result})


def events(asked: Asked, *results: dict[str, Any], then: str = "close") -> Reply:
    messages = [{"jsonrpc": "2.0", "id": asked.message["id"], "result": result} for result in results]
    return as_events(*messages, then=then)


def answering(remote: RemoteMcp, **replies: Callable[[Asked], Reply] | Reply) -> None:
    """Give the peer its answers by the names of the methods (`SendMessage=...`)."""

    def reply(asked: Asked) -> Reply:
        found = replies.get(asked.rpc)
        if found is None:
            error = {"code": -32601, "message": f"no method {asked.rpc}"}
            return as_json({"jsonrpc": "2.0", "id": asked.message.get("id"), "error": error})
        return found(asked) if callable(found) else found

    remote.before = reply
