"""The playground's page: who sees it, and that nothing in it needs more than the strict policy allows."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from tools.models import CallerRole

PAGE = "/playground/"


@pytest.fixture
def in_service(settings: Any) -> None:
    """Settings as outside debug."""
    settings.DEBUG = False
    settings.ALLOWED_HOSTS = ["localhost"]


def stranger() -> Client:
    return Client(headers={"host": "localhost"})


def signed_in(*permissions: str) -> Client:
    user = User.objects.create(username=f"player-{uuid4()}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = stranger()
    client.force_login(user)
    return client


def test_in_debug_the_page_is_open_and_offers_the_roles_that_there_are(settings: Any):
    settings.DEBUG = True
    role = CallerRole.objects.create(name=f"role-{uuid4().hex[:12]}")
    page = stranger().get(PAGE).content.decode()
    assert f"<option>{role.name}</option>" in page
    assert "What is the weather like in London?" in page


def test_outside_debug_a_stranger_is_sent_to_the_consoles_login(in_service: None):
    response = stranger().get(PAGE)
    assert response.status_code == 302
    assert response["Location"] == f"/admin/login/?next={PAGE}"


def test_outside_debug_the_permission_is_needed(in_service: None):
    assert signed_in().get(PAGE).status_code == 403
    page = signed_in("use_playground").get(PAGE)
    assert page.status_code == 200
    assert 'id="role"' not in page.content.decode()
    assert '"/playground/events"' in page.content.decode()


def test_the_page_says_that_the_demo_model_answers(settings: Any):
    settings.DEBUG = True
    assert "Demo model." in stranger().get(PAGE).content.decode()
    settings.MODEL_IS_DEMO = False
    assert "Demo model." not in stranger().get(PAGE).content.decode()


def test_the_policy_is_strict_and_the_page_keeps_it(settings: Any):
    settings.DEBUG = True
    response = stranger().get(PAGE)
    directives = policy(response)
    assert directives["default-src"] == directives["script-src"] == directives["style-src"] == ["'self'"]
    assert directives["frame-ancestors"] == directives["base-uri"] == directives["object-src"] == ["'none'"]
    page = response.content.decode()
    inline = re.findall(r"<script(?![^>]*\bsrc=)([^>]*)>", page)
    assert all('type="application/json"' in attributes for attributes in inline)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)


def test_only_the_console_may_evaluate(settings: Any):
    settings.DEBUG = True
    console = policy(stranger().get("/admin/login/"))
    assert console["script-src"] == ["'self'", "'unsafe-eval'"]
    assert console["style-src"] == ["'self'", "'unsafe-inline'"]
    assert console["frame-ancestors"] == ["'none'"]


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_the_page_is_only_read(method: str):
    assert getattr(stranger(), method)(PAGE).status_code == 405


def policy(response: Any) -> dict[str, list[str]]:
    parts = (part.split() for part in response["Content-Security-Policy"].split(";"))
    return {name: values for name, *values in parts}
