"""Guardrail policies in the console: written by kind, tried, switched, and read with their versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from audit.models import AuditEvent
from tests.console.support import client_of, console_user, member_of, seen_on, text_of
from tests.guardrail_support import a_word, make_policy, remove_policies
from tools.governance.policies import KEYWORDS_POLICY, publish_keywords_of_setting
from tools.models import ChangeRequest, GuardrailPolicy

POLICIES = "/admin/tools/guardrailpolicy/"
SENT = {"_form_submitted": "on"}


@pytest.fixture
def client() -> Client:
    return member_of("Administrators")


@pytest.fixture
def policy() -> Iterator[GuardrailPolicy]:
    name = make_policy("block", "output", "user_input", words=[a_word()])
    yield GuardrailPolicy.objects.select_related("current_version").get(name=name)
    remove_policies([name])


def form(**changes: Any) -> dict[str, Any]:
    return {
        "name": f"console-{uuid4().hex[:8]}", "description": "", "policy_kind": "keywords", "keywords": "alpha\n\n beta \n",
        "match": "word", "patterns": "", "stages": ["output"], "action": "block", "message": "", "change_reason": "", **changes,
    }  # fmt: skip


def page_of(policy: GuardrailPolicy) -> str:
    return f"{POLICIES}{policy.pk}/change/"


def test_a_policy_is_made_and_changed_in_the_name_of_who_did_it() -> None:
    user = console_user("Administrators")
    client = client_of(user)
    said = form()
    response = client.post(f"{POLICIES}add/", said)
    assert response.status_code == 302, text_of(response)
    made = GuardrailPolicy.objects.select_related("current_version").get(name=said["name"])
    assert made.current_version is not None
    assert made.current_version.settings == {"keywords": ["alpha", "beta"], "match": "word"}
    assert (made.enabled, made.everywhere, made.current_version.created_by) == (True, False, f"console:{user.pk}")

    page = page_of(made)
    changed = form(policy_kind="pii", classes=["email"], action="redact", everywhere="on", **seen_on(client, page))
    response = client.post(page, {**changed, "name": ""})
    assert response.status_code == 302, text_of(response)
    made = GuardrailPolicy.objects.select_related("current_version").get(pk=made.pk)
    assert made.current_version is not None
    assert (made.current_version.number, made.current_version.settings) == (2, {"classes": ["email"]})
    assert made.everywhere
    recorded = AuditEvent.objects.filter(action="guardrail.changed", actor_id=f"console:{user.pk}")
    assert {event.target_id for event in recorded} == {str(made.pk)}
    versions = text_of(client.get(f"{POLICIES}{made.pk}/versions/"))
    assert "Version 2 counts" in versions
    assert "alpha" in versions
    remove_policies([made.name])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": []}, "This field is required"),
        ({"action": "ask"}, "A person can be asked about the arguments of tools only"),
        ({"keywords": ""}, ""),
        ({"policy_kind": "patterns", "patterns": "("}, ""),
        ({"policy_kind": "model", "url": "nowhere", "timeout_seconds": "5"}, "An address with http"),
        ({"name": KEYWORDS_POLICY}, "DISALLOWED_KEYWORDS"),
    ],
)
def test_what_cannot_be_used_is_told_and_not_saved(client: Client, changes: dict[str, Any], said: str) -> None:
    given = form(**changes)
    before = GuardrailPolicy.objects.count()
    response = client.post(f"{POLICIES}add/", given)
    assert response.status_code == 200
    assert response.context["adminform"].form.errors
    assert said in text_of(response)
    assert GuardrailPolicy.objects.count() == before


def test_a_policy_is_switched_off_and_on(client: Client, policy: GuardrailPolicy) -> None:
    for action, enabled in (("switch-off", False), ("switch-on", True)):
        client.post(f"{POLICIES}{policy.pk}/{action}/", {**SENT, "reason": "for a test"})
        policy.refresh_from_db()
        assert policy.enabled is enabled


def test_switching_on_waits_for_a_second_person_where_that_is_set(
    client: Client, policy: GuardrailPolicy, settings: Any
) -> None:
    settings.FOUR_EYES = ["guardrails"]
    client.post(f"{POLICIES}{policy.pk}/switch-off/", {**SENT, "reason": ""})
    client.post(f"{POLICIES}{policy.pk}/switch-on/", {**SENT, "reason": ""})
    policy.refresh_from_db()
    assert not policy.enabled
    assert ChangeRequest.objects.filter(kind="Guardrail", name=policy.name, status="pending").exists()


def test_a_text_is_tried_at_each_place_and_nothing_of_it_is_kept(client: Client, policy: GuardrailPolicy) -> None:
    assert policy.current_version is not None
    [word] = policy.current_version.settings["keywords"]
    before = AuditEvent.objects.count()
    answer = client.post(f"{POLICIES}try/", {"policy": policy.name, "text": f"Tell of {word}."})
    shown = text_of(answer)
    assert shown.count("blocked") == 2
    assert f"{policy.name}, version 1" in shown
    assert AuditEvent.objects.count() == before
    passed = text_of(client.post(f"{POLICIES}try/", {"policy": policy.name, "text": "Tell of peace."}))
    assert "blocked" not in passed


def test_what_a_setting_says_is_only_read(client: Client) -> None:
    word = a_word()
    publish_keywords_of_setting([word])
    try:
        found = GuardrailPolicy.objects.get(name=KEYWORDS_POLICY)
        page = client.get(page_of(found))
        assert "set by DISALLOWED_KEYWORDS" in text_of(page)
        assert word in text_of(page)
        assert client.post(page_of(found), form()).status_code == 403
        client.post(f"{POLICIES}{found.pk}/switch-off/", {**SENT, "reason": ""})
        found.refresh_from_db()
        assert found.enabled
    finally:
        publish_keywords_of_setting([])


@pytest.mark.parametrize(("group", "may_read"), [("Compliance", True), ("Operators", True), ("", False)])
def test_others_read_policies_at_most(policy: GuardrailPolicy, group: str, may_read: bool) -> None:
    client = member_of(*([group] if group else []))
    assert client.get(POLICIES).status_code == (200 if may_read else 403)
    assert client.get(page_of(policy)).status_code == (200 if may_read else 403)
    assert client.get(f"{POLICIES}try/").status_code == (200 if may_read else 403)
    assert client.get(f"{POLICIES}add/").status_code == 403
    assert client.post(page_of(policy), form()).status_code == 403
