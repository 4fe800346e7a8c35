"""`manage.py demo_model` as a process of its own, asked directly and by the whole service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.running_service import ROOT, Caller, RunningService, ServiceFactory, free_port

KEY = "sk-key-of-the-demo-server-tests"


@contextmanager
def demo_server(port: int) -> Iterator[subprocess.Popen[str]]:
    """The running server, ready to answer; it needs no database."""
    environment = {**os.environ, "SUPABASE_DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    process = subprocess.Popen(
        [sys.executable, "-u", "manage.py", "demo_model", "--port", str(port), "--pace", "0.001"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert "listens" in process.stdout.readline()
        # The line comes just before the socket is open: the transport's own retries of the connection bridge that.
        with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
            client.get(f"http://127.0.0.1:{port}/v1/models").raise_for_status()
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def demo_port() -> Iterator[int]:
    port = free_port()
    with demo_server(port):
        yield port


@pytest.fixture(scope="module")
def served(demo_port: int, service_factory: ServiceFactory) -> RunningService:
    """The service with the demo server as its provider."""
    url = f"http://127.0.0.1:{demo_port}/v1"
    return service_factory.start(OPENAI_BASE_URL=url, OPENAI_API_KEY=KEY, MODEL_IDLE_TIMEOUT_SECONDS="1")


def ask(port: int, text: str, **fields: object) -> httpx.Response:
    body = {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}
    return httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, trust_env=False)


def test_it_lists_its_model(demo_port: int) -> None:
    listed = httpx.get(f"http://127.0.0.1:{demo_port}/v1/models", trust_env=False).json()
    assert [entry["id"] for entry in listed["data"]] == ["demo"]


def test_an_answer_that_is_not_streamed_is_one_document(demo_port: int) -> None:
    found = ask(demo_port, "please refuse").json()
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["choices"][0]["message"]["content"].startswith("I'm sorry")
    assert found["usage"]["total_tokens"] > 0


def test_a_streamed_answer_ends_with_the_end_mark(demo_port: int) -> None:
    frames = ask(demo_port, "hello", stream=True).text.strip().split("\n\n")
    assert frames[-1] == "data: [DONE]"
    assert all(json.loads(frame.removeprefix("data: "))["object"] == "chat.completion.chunk" for frame in frames[:-1])


@pytest.mark.parametrize("status", [429, 500])
def test_an_error_on_demand_has_its_status(demo_port: int, status: int) -> None:
    assert ask(demo_port, f"demo: error {status}", stream=True).status_code == status


def test_a_body_that_is_not_json_is_refused(demo_port: int) -> None:
    found = httpx.post(f"http://127.0.0.1:{demo_port}/v1/chat/completions", content=b"{", trust_env=False)
    assert found.status_code == 400


def test_a_run_of_the_service_goes_through_the_server(served: RunningService) -> None:
    frames = served.post_run(Caller(), "What is the weather like in London?")
    kinds = [frame.event["type"] for frame in frames]
    assert kinds[-1] == "RUN_FINISHED"
    assert "TOOL_CALL_RESULT" in kinds
    assert "London" in "".join(
        frame.event["delta"] for frame in frames if frame.event["type"] == "TEXT_MESSAGE_CONTENT"
    )


@pytest.mark.parametrize(
    ("phrase", "code"),
    [
        ("demo: error 500", "model_unavailable"),
        ("demo: error 429", "model_rate_limited"),
        ("demo: error 401", "model_refused"),
        ("demo: rubbish", "model_invalid_response"),
        ("demo: cut", "model_stream_interrupted"),
        ("demo: stall", "model_timeout"),
    ],
)
def test_a_failing_model_ends_the_run_with_one_error_and_no_internals(
    served: RunningService, demo_port: int, phrase: str, code: str
) -> None:
    frames = served.post_run(Caller(), phrase)
    errors = [frame.event for frame in frames if frame.event["type"] == "RUN_ERROR"]
    assert [error["code"] for error in errors] == [code]
    assert frames[-1].event == errors[0]
    assert KEY not in json.dumps(errors)
    assert str(demo_port) not in json.dumps(errors)


def test_the_key_is_in_no_log(served: RunningService) -> None:
    served.post_run(Caller(), "demo: error 401")
    log = served.log.read_text()
    assert "the model's provider answered with an error" in log
    assert KEY not in log


def test_a_provider_that_dies_in_the_midst_of_an_answer_ends_the_run(service_factory: ServiceFactory) -> None:
    port = free_port()
    caller = Caller()
    with demo_server(port) as provider:
        served = service_factory.start(OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1")
        options = {"params": {"user_message": "demo: slow 200", "protocol": "ag-ui"}}
        with served.open_stream(caller, "GET", "/ag-ui/events", **options) as (_, frames):
            for frame in frames:
                if frame.event["type"] == "TEXT_MESSAGE_CONTENT":
                    provider.kill()
                    break
            *_, last = frames
    assert (last.event["type"], last.event["code"]) == ("RUN_ERROR", "model_stream_interrupted")
    assert served.post_run(caller, "hello")[-1].event["code"] == "model_unavailable"
