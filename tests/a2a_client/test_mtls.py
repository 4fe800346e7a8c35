"""TLS with certificates on both sides: towards remote agents, and of callers towards this service."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import call_command

from a2a import loading
from agentbackend.foundation.database import Database
from agentbackend.foundation.outbound import OutboundPolicy
from agentbackend.tls_endpoint import TlsFilesError, tls_options
from tests.a2a_client.support import Delegations, SampleProcess, registered, sample_agent
from tests.running_service import ROOT, Caller, RunningService, ServiceFactory, run_input
from tests.runs.support import eventually
from tools import process
from tools.calls import ToolOutcome


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority") / "ca"
    call_command("development_ca", str(folder), verbosity=0)
    return folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger") / "ca"
    call_command("development_ca", str(folder), verbosity=0)
    return folder


def test_the_development_authority_replaces_nothing_and_hides_its_keys(authority: Path) -> None:
    assert sorted(file.name for file in authority.iterdir()) == [
        "ca.key", "ca.pem", "client.key", "client.pem", "server.key", "server.pem",
    ]  # fmt: skip
    assert {file.stat().st_mode & 0o777 for file in authority.iterdir()} == {0o600}
    before = (authority / "ca.pem").read_text()
    with pytest.raises(Exception, match="File exists"):
        call_command("development_ca", str(authority))
    assert (authority / "ca.pem").read_text() == before


# --- towards a remote agent


@pytest.fixture(scope="module")
def sample(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SampleProcess]:
    with sample_agent(
        tmp_path_factory.mktemp("sample"),
        A2A_MOCK_CERT_FILE=str(authority / "server.pem"),
        A2A_MOCK_KEY_FILE=str(authority / "server.key"),
        A2A_MOCK_CLIENT_CA_FILE=str(authority / "ca.pem"),
    ) as running:
        yield running


@pytest.fixture
async def ready(monkeypatch: pytest.MonkeyPatch, database_pool: Database) -> AsyncIterator[None]:
    policy = OutboundPolicy(allowed_hosts=["127.0.0.1"])
    monkeypatch.setattr(process, "outbound_policy", lambda: policy)
    yield
    await loading.close_connections()


def delegations(
    sample: SampleProcess, trusted: Path, shown: Path | None, monkeypatch: pytest.MonkeyPatch
) -> Delegations:
    fields: dict[str, Any] = {"trusted_ca": (trusted / "ca.pem").read_text()}
    if shown is not None:
        monkeypatch.setenv("PEER_CERTIFICATE", (shown / "client.pem").read_text())
        monkeypatch.setenv("PEER_KEY", (shown / "client.key").read_text().replace("\n", "\\n"))  # as one line
        fields |= {"client_certificate": "PEER_CERTIFICATE", "client_key": "PEER_KEY"}
    return Delegations(registered(sample.card, **fields))


@pytest.mark.usefixtures("ready")
async def test_a_delegation_with_the_right_certificates_works(
    sample: SampleProcess, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = await delegations(sample, authority, authority, monkeypatch).ask("tea")
    assert (result.outcome, result.content.endswith("I was asked: tea")) == (ToolOutcome.OK, True)


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("shows", ["stranger", "none"])
async def test_one_with_the_wrong_certificate_or_none_does_not(
    sample: SampleProcess, authority: Path, stranger: Path, shows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = stranger if shows == "stranger" else None
    result = await delegations(sample, authority, shown, monkeypatch).ask("tea")
    assert result.outcome is ToolOutcome.FAILED
    assert "certificate" in result.content or "broke off" in result.content
    assert "PRIVATE" not in result.content


@pytest.mark.usefixtures("ready")
async def test_an_agent_whose_own_certificate_is_not_trusted_is_told_nothing(
    sample: SampleProcess, authority: Path, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_before = sample.said().count("task ")
    result = await delegations(sample, stranger, authority, monkeypatch).ask("tea")
    assert "a certificate is not accepted" in result.content
    assert sample.said().count("task ") == asked_before


@pytest.mark.usefixtures("ready")
async def test_what_is_no_certificate_is_for_an_operator_and_shown_to_nobody(
    sample: SampleProcess, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = delegations(sample, authority, authority, monkeypatch)
    monkeypatch.setenv("PEER_KEY", "a-secret-that-is-no-key")
    result = await door.ask("tea")
    assert "an operator must set it anew" in result.content
    assert "a-secret" not in result.content


@pytest.mark.usefixtures("ready")
async def test_a_certificate_that_is_replaced_is_used_from_the_next_task_on(
    sample: SampleProcess, authority: Path, stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = delegations(sample, authority, stranger, monkeypatch)
    assert (await door.ask("tea")).outcome is ToolOutcome.FAILED
    monkeypatch.setenv("PEER_CERTIFICATE", (authority / "client.pem").read_text())
    monkeypatch.setenv("PEER_KEY", (authority / "client.key").read_text())
    assert (await door.ask("tea")).outcome is ToolOutcome.OK


# --- of callers


@pytest.fixture(scope="module")
def serving(service_factory: ServiceFactory, authority: Path) -> RunningService:
    return service_factory.start(
        wait=False,
        TLS_CERT_FILE=str(authority / "server.pem"),
        TLS_KEY_FILE=str(authority / "server.key"),
        TLS_CLIENT_CA_FILE=str(authority / "ca.pem"),
    )


def caller(serving: RunningService, authority: Path, shown: Path | None) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(authority / "ca.pem"))
    if shown is not None:
        context.load_cert_chain(shown / "client.pem", shown / "client.key")
    url = f"https://127.0.0.1:{serving.port}"
    return httpx.Client(base_url=url, verify=context, headers=Caller().headers, timeout=30.0, trust_env=False)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readiness").status_code == 200
    except httpx.ConnectError as error:
        assert "refused" in str(error).lower(), error
        return False


def test_the_service_answers_callers_with_a_certificate_of_the_authority_and_nobody_else(
    serving: RunningService, authority: Path, stranger: Path
) -> None:
    with caller(serving, authority, authority) as client:
        eventually(lambda: is_ready(client), "the service is ready", 60.0)
        answer = client.post("/ag-ui/events", json=run_input("What is 2 + 3?"))
        assert '"type":"RUN_FINISHED"' in answer.text
    for shown in (stranger, None):
        with caller(serving, authority, shown) as client, pytest.raises(httpx.TransportError):
            client.get("/health")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{serving.port}/health", timeout=10.0, trust_env=False)


@pytest.mark.parametrize(
    ("certificate", "key", "told"),
    [
        ("server.key", "server.key", "TLS_CERT_FILE: holds no certificates"),
        ("server.pem", "server.pem", "TLS_KEY_FILE: holds no private key"),
        ("server.pem", "ca.key", "TLS_KEY_FILE: is not the key"),
    ],
)
def test_files_that_cannot_be_used_are_named(authority: Path, certificate: str, key: str, told: str) -> None:
    with pytest.raises(TlsFilesError, match=told):
        tls_options(str(authority / certificate), str(authority / key), "")


def test_half_a_configuration_does_not_start(service_factory: ServiceFactory, authority: Path) -> None:
    started = service_factory.start(wait=False, TLS_CERT_FILE=str(authority / "server.pem"))
    assert started.ended() != 0
    assert "either both are set or neither" in started.tail()


def test_the_containers_probe_finds_the_service(serving: RunningService, authority: Path) -> None:
    with caller(serving, authority, authority) as client:
        eventually(lambda: is_ready(client), "the service is ready", 60.0)
    probe = [sys.executable, "-m", "agentbackend.health_probe"]
    environment = {"PORT": str(serving.port), "TLS_CLIENT_CA_FILE": "set"}
    assert subprocess.run(probe, cwd=ROOT, env=environment, check=False).returncode == 0
