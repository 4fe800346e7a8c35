"""A real Chromium for the tests of pages. What it complains about fails the test."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group, User
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from agentbackend.console_groups import ensure_console_groups
from audit.actor import SYSTEM
from tools.models import Tool
from tools.versions import Definition, publish_version

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass
class Complaints:
    """What the browser logged as an error, and errors of scripts; a violated content policy is among them."""

    texts: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", self._on_message)
        page.on("pageerror", lambda error: self.texts.append(str(error)))

    def _on_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.texts.append(message.text)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    executable = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip("there is no Chromium on this machine (Debian: chromium)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=list(_ARGUMENTS))
        yield browser
        await browser.close()


class Pages:
    """Opens pages; at the end none of them may have complained, unless the test said so."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.complaints = Complaints()

    async def open(self, *, width: int = 1280, height: int = 800) -> Page:
        context = await self._browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(20_000)
        page = await context.new_page()
        self.complaints.watch(page)
        return page

    @asynccontextmanager
    async def complaining(self) -> AsyncIterator[None]:
        """What is logged in here is expected: the test provokes it."""
        before = list(self.complaints.texts)
        yield
        self.complaints.texts = before


@pytest.fixture
async def pages(browser: Browser) -> AsyncIterator[Pages]:
    found = Pages(browser)
    yield found
    assert found.complaints.texts == []


@dataclass(frozen=True)
class Login:
    """Somebody who may sign in to the console."""

    name: str
    password: str

    async def sign_in(self, page: Page, url: str) -> None:
        """Sign in on the page that is open, and wait for `url`."""
        await page.get_by_label("Username").fill(self.name)
        await page.get_by_label("Password").fill(self.password)
        await page.get_by_role("button", name="Log in").click()
        await page.wait_for_url(url)


def make_login(*groups: str, superuser: bool = False) -> Login:
    ensure_console_groups()
    login = Login(f"browser-{uuid4()}", secrets.token_urlsafe(16))
    user = User.objects.create(username=login.name, is_staff=True, is_superuser=superuser)
    user.set_password(login.password)
    user.save()
    user.groups.set(Group.objects.filter(name__in=groups))
    return login


@pytest.fixture
def compliance() -> Login:
    return make_login("Compliance")


@pytest.fixture
def administrator() -> Login:
    return make_login("Administrators")


@pytest.fixture
def switched_tool() -> str:
    """A tool of its own, switched off; returns its id."""
    tool = Tool.objects.create(name=f"browser_{uuid4().hex[:12]}")
    definition = Definition(
        title="Calculator",
        description="Calculates.",
        input_schema={"type": "object", "properties": {}},
        handler={"function": "calculator_tool"},
    )
    publish_version(tool, definition, by=SYSTEM)
    return str(tool.pk)
