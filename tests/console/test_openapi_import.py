"""Importing from OpenAPI in the console: a document is given, operations are chosen, looked at, and become tools that are off."""

from __future__ import annotations

import html
import json
import re
from typing import Any
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from agentbackend.foundation.outbound import OutboundPolicy
from audit.models import AuditEvent
from tests.console.support import client_of, console_user, member_of, text_of
from tools import process
from tools.models import ChangeRequest, Tool

PAGE = "/admin/tools/tool/import-openapi/"


@pytest.fixture(autouse=True)
def only_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process._process, "policy", OutboundPolicy())


def document(**more: Any) -> dict[str, Any]:
    operation = {"operationId": "listPets", "summary": "List pets", "security": [{"key": []}]}
    upload = {"operationId": "upload", "requestBody": {"content": {"multipart/form-data": {}}}}
    return {
        "openapi": "3.1.0", "info": {"title": "Pet <Shop>", "version": "7"}, "servers": [{"url": "https://api.example.com"}],
        "paths": {"/pets": {"get": operation, "post": upload}},
        "components": {"securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-Key"}}},
        **more,
    }  # fmt: skip


def give(client: Client, content: bytes | dict[str, Any], name: str = "petshop.json") -> Any:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return client.post(PAGE, {"step": "read", "file": SimpleUploadedFile(name, data)})


def hidden(response: Any) -> dict[str, Any]:
    """What the page's form carries, by name."""
    found: dict[str, Any] = {}
    for tag in re.findall(r"<input[^>]*>", response.content.decode()):
        attributes = {name: html.unescape(value) for name, value in re.findall(r'([a-z-]+)="([^"]*)"', tag)}
        kind = attributes.get("type", "text")
        if kind == "hidden" or (kind == "text" and "name" in attributes):
            found.setdefault(attributes["name"], []).append(attributes.get("value", ""))
    return {name: values for name, values in found.items() if name != "csrfmiddlewaretoken"}


def go_on(client: Client, before: Any, step: str, **said: Any) -> Any:
    return client.post(PAGE, {**hidden(before), "step": step, **said})


def test_from_a_file_to_tools_that_are_off():
    user, prefix = console_user("Administrators"), f"p{uuid4().hex[:8]}_"
    client = client_of(user)

    chosen = give(client, document())
    assert "1 of 2 operations can become tools" in text_of(chosen)
    assert "Its body is multipart/form-data" in text_of(chosen)
    assert "PET_SHOP_KEY" in chosen.content.decode()
    preview = go_on(client, chosen, "preview", chosen=["0"], name_prefix=prefix, **{"credential-0": "SHOP_KEY"})
    assert f"{prefix}listPets" in text_of(preview)
    assert "https://api.example.com/pets" in text_of(preview)
    assert not Tool.objects.filter(name=f"{prefix}listPets").exists()
    result = go_on(client, preview, "import", reason="for the shop")
    assert "created" in text_of(result)

    tool = Tool.objects.select_related("current_version").get(name=f"{prefix}listPets")
    assert tool.current_version is not None
    assert (tool.enabled, tool.current_version.change_note) == (False, "for the shop")
    assert tool.current_version.created_by == f"console:{user.pk}"
    assert tool.current_version.required_credentials == ["SHOP_KEY"]
    assert f"/admin/tools/tool/{tool.pk}/change/" in result.content.decode()
    assert AuditEvent.objects.filter(action="openapi.imported", actor_id=f"console:{user.pk}").count() == 1


def test_where_two_must_agree_tools_are_proposed(settings: Any):
    settings.FOUR_EYES = ["tools"]
    client, prefix = member_of("Administrators"), f"p{uuid4().hex[:8]}_"

    chosen = give(client, document())
    preview = go_on(client, chosen, "preview", chosen=["0"], name_prefix=prefix)
    result = go_on(client, preview, "import")

    assert "Propose 1 tool" in text_of(preview)
    proposal = ChangeRequest.objects.get(name=f"{prefix}listPets")
    assert f"/{proposal.pk}/" in result.content.decode()
    assert not Tool.objects.filter(name=f"{prefix}listPets").exists()


def test_a_name_that_is_taken_is_told_before_and_after():
    client = member_of("Administrators")
    name = f"taken{uuid4().hex[:8]}"
    Tool.objects.create(name=name)
    doc = document(paths={"/a": {"get": {"operationId": name}}})

    chosen = give(client, doc)
    assert "There is a tool of this name already" in text_of(chosen)
    result = go_on(client, chosen, "import", chosen=["0"])
    assert "already" in text_of(result)
    assert Tool.objects.get(name=name).current_version is None


def test_nothing_chosen_too_much_chosen_and_bad_options_are_told():
    client = member_of("Administrators")
    chosen = give(client, document(paths={f"/{number}": {"get": {}} for number in range(101)}))

    assert "Tick the operations" in text_of(go_on(client, chosen, "preview"))
    assert "Tick at most 100" in text_of(
        go_on(client, chosen, "preview", chosen=[str(number) for number in range(101)])
    )
    bad = go_on(
        client, chosen, "preview", chosen=["5"], name_prefix="no spaces", **{"credential-0": "DJANGO_SECRET_KEY"}
    )
    assert "letters, digits, underscores" in text_of(bad)
    assert "a setting of the service itself" in text_of(bad)
    assert re.search(r'value="5"[^>]*checked', bad.content.decode())
    assert "101 of 101" in text_of(go_on(client, chosen, "preview", chosen=["x", "-1", "999", "\u0661"]))


def test_another_base_address_counts_and_a_private_one_is_refused():
    client = member_of("Administrators")
    chosen = give(client, document())

    listed = go_on(client, chosen, "list", base_url="http://169.254.169.254/api")
    assert "0 of 2 operations" in text_of(listed)
    assert "OUTBOUND_ALLOWED_HOSTS" in text_of(listed)
    preview = go_on(client, listed, "preview", chosen=["0"], base_url="https://own.example.com/api")
    assert "https://own.example.com/api/pets" in text_of(preview)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "not JSON"),
        (b"a: [", "neither JSON nor YAML"),
        (b"\x00\xff", "not a text in UTF-8"),
        (b'{"swagger": "2.0"}', "Swagger 2.0"),
        (b" " * (4 * 1024 * 1024 + 1), "more than 4 MiB"),
    ],
)
def test_a_document_that_cannot_be_used_is_told_on_the_form_and_nothing_is_saved(content: bytes, told: str):
    before = Tool.objects.count()
    response = give(member_of("Administrators"), content)

    assert (response.status_code, told in text_of(response)) == (200, True)
    assert Tool.objects.count() == before


def test_a_document_that_refers_outside_itself_is_told_on_the_form():
    doc = document(components={"schemas": {"A": {"$ref": "https://evil.example/a.json"}}})

    assert "refers outside itself" in text_of(give(member_of("Administrators"), doc))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({}, "Give either a file or an address"),
        ({"url": "http://127.0.0.1:1/openapi.json"}, "may not be reached"),
        ({"url": "http://[::ffff:169.254.169.254]/"}, "may not be reached"),
        ({"url": "file:///etc/passwd"}, "reached"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_on_the_form(said: dict[str, str], told: str):
    assert told in text_of(member_of("Administrators").post(PAGE, {"step": "read", **said}))


def test_what_a_document_says_is_shown_as_text():
    operation = {
        "operationId": "x",
        "summary": "<img src=x onerror=alert(1)>",
        "description": "{{ 7 * 7 }}</pre><script>",
    }
    client = member_of("Administrators")
    chosen = give(client, document(paths={"/a": {"get": operation}}), name="<b>.json")
    preview = go_on(client, chosen, "preview", chosen=["0"], name_prefix=f"p{uuid4().hex[:8]}")

    for page in (chosen, preview):
        assert "<img src=x" not in page.content.decode()
        assert "Pet <Shop>" not in page.content.decode()
    assert "</pre><script>" not in preview.content.decode()


@pytest.mark.parametrize("document_said", ["", "nonsense", "a:b:c"])
def test_a_form_with_another_document_is_refused(document_said: str):
    response = member_of("Administrators").post(PAGE, {"step": "import", "document": document_said, "chosen": ["0"]})

    assert "begin again" in text_of(response)


def test_a_form_of_another_person_is_refused():
    page = give(member_of("Administrators"), document())
    response = go_on(member_of("Administrators"), page, "preview", chosen=["0"])

    assert "begin again" in text_of(response)


@pytest.mark.parametrize("group", ["Operators", "Compliance"])
def test_it_is_for_those_who_may_add_tools(group: str):
    client = member_of(group)

    assert client.get(PAGE).status_code == 403
    assert give(client, document()).status_code == 403
    assert "import-from-openapi" not in client.get("/admin/tools/tool/").content.decode()


def test_the_list_of_tools_leads_to_it():
    client = member_of("Administrators")

    assert "import-from-openapi" in client.get("/admin/tools/tool/").content.decode()
    response = client.get("/admin/tools/tool/import-from-openapi/", follow=True)
    assert response.redirect_chain[-1][0] == PAGE
    assert "Read the document" in text_of(response)


def test_strangers_are_sent_to_the_login():
    assert Client(headers={"host": "localhost"}).get(PAGE).status_code == 302
