"""Stored credentials: sealed, used by calls before the environment's, rotated, and never shown."""

from __future__ import annotations

import base64
import io
import logging
import secrets
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command

from agentbackend.foundation.keyring import KeyRing
from agentbackend.structured_logging import redact
from audit.actor import SYSTEM, Actor
from audit.models import AuditEvent
from tests.tools.support import Door, ToolMaker, details
from tools import stored_credentials
from tools.changes import approve, submit
from tools.credentials import CredentialSource
from tools.documents import Document, kind_named
from tools.invocation import ToolInvocation
from tools.models import ChangeRequest, StoredCredential
from tools.stored_credentials import KIND, credential_states, rotate_credentials, seal_value
from tools.vault import CREDENTIAL, Sealed, VaultError, open_sealed, seal


@pytest.fixture
def name() -> Iterator[str]:
    made = f"TEST_{uuid4().hex[:12].upper()}_KEY"
    yield made
    StoredCredential.objects.filter(name__startswith=made).delete()
    ChangeRequest.objects.filter(name__startswith=made).delete()


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def document(name: str, value: str, description: str = "") -> Document:
    return Document(KIND, name, {"description": description, "secret": seal_value(name, value)})


def store(name: str, value: str) -> StoredCredential:
    submit(document(name, value), by=SYSTEM)
    return StoredCredential.objects.get(name=name)


def opened(stored: StoredCredential) -> str:
    return open_sealed(Sealed(stored.kid, bytes(stored.sealed)), purpose=CREDENTIAL, name=stored.name)


async def tell_length(*, invocation: ToolInvocation) -> str:
    [value] = invocation.credentials.values()
    return f"{len(value)} characters, {value}"


def without_secrets_in(record: logging.LogRecord) -> str:
    """A line as the service writes it."""
    return str(redact(None, record.levelname.lower(), {"event": record.getMessage()})["event"])


# --- in calls


async def test_a_stored_credential_comes_before_the_environments_and_is_hidden_in_results(
    door: Door, make_tool: ToolMaker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT, name, "from-the-environment")
    tool = await make_tool(tell_length, required_credentials=[name])
    before = await door.call(tool)
    await sync_to_async(store)(name, "s3cr3t-stored")
    after = await door.call(tool)
    assert (before.content, after.content) == ("20 characters, [redacted]", "13 characters, [redacted]")
    allowed = door.recorder.entries[-2]
    assert details(allowed)["uses"] == [name]
    assert all(b"s3cr3t" not in (entry.payload_row or (b"",))[-1] for entry in door.recorder.entries)


async def test_a_credential_that_cannot_be_opened_is_missing_whatever_the_environment_has(
    door: Door, make_tool: ToolMaker, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT, name, "from-the-environment")
    tool = await make_tool(tell_length, required_credentials=[name])
    await sync_to_async(store)(name, "s3cr3t-stored")
    monkeypatch.setattr(settings, "VAULT_KEYS", KeyRing.parse(f"other:{new_key()}"))
    result = await door.call(tool)
    assert result.outcome == "missing_credential"
    assert name not in result.content
    assert details(door.last)["note"].startswith(f"{name} is stored and cannot be opened: the key")
    told = [without_secrets_in(record) for record in caplog.records if record.name == "tools.credentials"]
    assert any(name in text and "not in VAULT_KEYS" in text for text in told), "the operator's log says which and why"


# --- sealed


def test_what_is_sealed_for_one_name_opens_for_no_other(name: str) -> None:
    sealed = seal("value", purpose=CREDENTIAL, name=name)
    assert open_sealed(sealed, purpose=CREDENTIAL, name=name) == "value"
    for purpose, other in ((CREDENTIAL, f"{name}_2"), ("something else", name)):
        with pytest.raises(VaultError):
            open_sealed(sealed, purpose=purpose, name=other)
    with pytest.raises(VaultError):
        open_sealed(Sealed(sealed.kid, sealed.data[:-1] + bytes([sealed.data[-1] ^ 1])), purpose=CREDENTIAL, name=name)
    with pytest.raises(VaultError, match="not in VAULT_KEYS"):
        open_sealed(Sealed("gone", sealed.data), purpose=CREDENTIAL, name=name)


def test_the_same_value_is_never_sealed_alike(name: str) -> None:
    assert seal("value", purpose=CREDENTIAL, name=name).data != seal("value", purpose=CREDENTIAL, name=name).data


def test_without_a_key_nothing_is_stored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "VAULT_KEYS", KeyRing())
    with pytest.raises(ValidationError, match="VAULT_KEYS is not set"):
        seal_value(name, "s3cr3t")


@pytest.mark.parametrize("value", ["", " \n", "xxx", "xxxx\0xxx", "x" * 20_000, "xxxxxx\udc80"])
def test_a_value_that_is_none_is_refused_without_repeating_it(name: str, value: str) -> None:
    with pytest.raises(ValidationError) as refused:
        seal_value(name, value)
    assert list(refused.value.message_dict) == ["secret"]
    assert "xxx" not in str(refused.value)


@pytest.mark.parametrize("bad", ["DJANGO_SECRET_KEY", "PGPASSWORD", "lower_case", "VAULT_KEYS"])
def test_a_name_of_the_services_own_is_refused(bad: str) -> None:
    with pytest.raises(ValidationError) as refused:
        submit(document(bad, "a value"), by=SYSTEM)
    assert "name" in refused.value.message_dict


@pytest.mark.parametrize(
    "secret", ["plain text", "vault:v1:kid", "vault:v1:kid:%%%", "vault:v1:kid:é", "vault:v2:kid:AAAA"]
)
def test_a_document_holds_sealed_values_only(name: str, secret: str) -> None:
    with pytest.raises(ValidationError) as refused:
        submit(Document(KIND, name, {"description": "", "secret": secret}), by=SYSTEM)
    assert "secret" in refused.value.message_dict


def test_white_space_that_came_with_pasting_is_taken_off(name: str) -> None:
    assert opened(store(name, "\tone value\r\n")) == "one value"


# --- states


def test_the_state_of_each_credential_that_is_stored_or_required_is_known(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [state] = credential_states([name])
    assert state.source is CredentialSource.NOWHERE
    monkeypatch.setitem(settings.TOOL_CREDENTIALS_FROM_ENVIRONMENT, name, "value")
    [state] = credential_states([name])
    assert state.source is CredentialSource.ENVIRONMENT
    store(name, "a value")
    [state] = credential_states([name])
    assert (state.source, state.problem) == (CredentialSource.VAULT, "")
    monkeypatch.setattr(settings, "VAULT_KEYS", KeyRing.parse(f"other:{new_key()}"))
    [state] = credential_states([name])
    assert (state.source, "not in VAULT_KEYS" in state.problem) == (CredentialSource.NOWHERE, True)
    required = {state.name: state.used_by for state in credential_states()}
    assert required["MOCK_WEATHER_TOOL_API_KEY"] == ["get_weather_tool"]


# --- rotation


@pytest.fixture
def two_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A key ring with a new key before the session's."""
    old = settings.VAULT_KEYS.active
    written = f"new-{uuid4().hex[:8]}:{new_key()},{old.kid}:{base64.b64encode(old.secret).decode()}"

    def turn() -> None:
        monkeypatch.setattr(settings, "VAULT_KEYS", KeyRing.parse(written))

    yield turn
    monkeypatch.undo()
    for stored in StoredCredential.objects.exclude(kid=old.kid):
        stored.delete()


def test_rotation_seals_everything_under_the_first_key_and_can_be_repeated(name: str, two_keys: Any) -> None:
    former = store(name, "a value").kid
    two_keys()
    assert name in rotate_credentials(by=SYSTEM, dry_run=True).resealed
    assert StoredCredential.objects.get(name=name).kid == former, "a dry run changes nothing"
    output = io.StringIO()
    call_command("rotate_credentials", stdout=output)
    assert f"{name} is sealed under {settings.VAULT_KEYS.active.kid}" in output.getvalue()
    stored = StoredCredential.objects.get(name=name)
    assert (stored.kid, opened(stored)) == (settings.VAULT_KEYS.active.kid, "a value")
    assert AuditEvent.objects.filter(action="credential.rotated", target_id=str(stored.pk)).count() == 1
    assert rotate_credentials(by=SYSTEM).resealed == []


SECOND = Actor(id="console:second", kind="console", role="staff", authenticated_by="console_session")


@pytest.mark.parametrize("proposed", ["a new value", "other words", "its removal"])
def test_a_proposal_that_waits_stays_good_after_a_rotation(
    name: str, two_keys: Any, settings: Any, proposed: str
) -> None:
    secret = kind_named(KIND).read(store(name, "old value").name)["secret"]  # type: ignore[index]
    spec = {
        "a new value": document(name, "new value").spec,
        "other words": {"description": "other words", "secret": secret},
        "its removal": None,
    }[proposed]
    settings.FOUR_EYES = ["credentials"]
    proposal = submit(Document(KIND, name, spec), by=SYSTEM)
    assert proposal is not None
    two_keys()
    done = rotate_credentials(by=SYSTEM)
    assert {name} <= set(done.resealed)
    proposal.refresh_from_db()
    active = f":{settings.VAULT_KEYS.active.kid}:"
    assert all(active in spec["secret"] for spec in (proposal.before, proposal.after) if spec), "no old key is needed"
    assert AuditEvent.objects.filter(action="credential.rotated", target_id=str(proposal.pk)).exists()
    assert approve(proposal, by=SECOND)
    left = {stored.description: opened(stored) for stored in StoredCredential.objects.filter(name=name)}
    assert (
        left
        == {"a new value": {"": "new value"}, "other words": {"other words": "old value"}, "its removal": {}}[proposed]
    )


def test_a_rotation_does_not_make_an_outdated_proposal_good_again(name: str, two_keys: Any, settings: Any) -> None:
    store(name, "first value")
    settings.FOUR_EYES = ["credentials"]
    proposal = submit(document(name, "proposed value"), by=SYSTEM)
    settings.FOUR_EYES = []
    store(name, "set meanwhile")
    two_keys()
    rotate_credentials(by=SYSTEM)
    assert proposal is not None
    assert not approve(proposal, by=SECOND)
    assert opened(StoredCredential.objects.get(name=name)) == "set meanwhile"


def test_a_rotation_seals_a_proposal_for_what_is_not_stored_yet_once(name: str, two_keys: Any, settings: Any) -> None:
    settings.FOUR_EYES = ["credentials"]
    proposal = submit(document(name, "first value"), by=SYSTEM)
    assert proposal is not None
    two_keys()
    assert rotate_credentials(by=SYSTEM).resealed == [f"{name} (proposed)"]
    proposal.refresh_from_db()
    sealed = proposal.after["secret"]
    assert rotate_credentials(by=SYSTEM).resealed == []
    proposal.refresh_from_db()
    assert proposal.after["secret"] == sealed, "what is under the active key is left alone"
    assert approve(proposal, by=SECOND)
    assert opened(StoredCredential.objects.get(name=name)) == "first value"


def test_an_interrupted_rotation_goes_on_where_it_stopped(
    name: str, two_keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name, f"{name}_2"]
    for each in names:
        store(each, "a value")
    two_keys()
    monkeypatch.setattr(stored_credentials, "_BATCH", 1)
    with monkeypatch.context() as broken:
        broken.setattr(stored_credentials, "_rotate_stored", failing_at(names[1]))
        with pytest.raises(RuntimeError, match="power cut"):
            rotate_credentials(by=SYSTEM)
    kids = [StoredCredential.objects.get(name=each).kid for each in names]
    assert [kid == settings.VAULT_KEYS.active.kid for kid in kids] == [True, False]
    assert rotate_credentials(by=SYSTEM).resealed == [names[1]]
    assert [opened(StoredCredential.objects.get(name=each)) for each in names] == ["a value", "a value"]


def failing_at(name: str) -> Any:
    """Rotates as ever, until it comes to this one."""
    rotate = stored_credentials._rotate_stored

    def rotate_or_fail(stored: StoredCredential, *arguments: Any, **options: Any) -> None:
        if stored.name == name:
            raise RuntimeError("power cut")
        rotate(stored, *arguments, **options)

    return rotate_or_fail


def test_what_no_key_opens_is_named_by_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store(name, "a value")
    monkeypatch.setattr(settings, "VAULT_KEYS", KeyRing.parse(f"other:{new_key()}"))
    with pytest.raises(CommandError, match=name):
        call_command("rotate_credentials", stdout=io.StringIO())
    assert StoredCredential.objects.get(name=name).kid != "other"


def test_a_key_that_was_replaced_under_its_own_id_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kid = store(name, "a value").kid
    monkeypatch.setattr(settings, "VAULT_KEYS", KeyRing.parse(f"{kid}:{new_key()}"))
    with pytest.raises(CommandError, match=name):
        call_command("rotate_credentials", stdout=io.StringIO())
