"""From a form to a conversation: an HTTP tool is made, tried, given to a role, and called in the playground as two roles."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from playwright.async_api import Page, expect

from audit.models import AuditEvent
from tests.browser.conftest import Login, Pages
from tests.browser.test_tool_console import editor, open_page, open_tab, signed_in
from tests.running_service import RunningService, ServiceFactory

pytestmark = pytest.mark.browser


class _Stock(BaseHTTPRequestHandler):
    """How many of a thing are in stock."""

    def do_GET(self) -> None:
        wanted = urlsplit(self.path)
        thing, shop = wanted.path.rpartition("/")[2], parse_qs(wanted.query).get("shop", [""])[0]
        body = json.dumps({"data": {"thing": thing, "shop": shop, "count": 7}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stock() -> Iterator[str]:
    """The address of a shop's service."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stock)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def reaching(service_factory: ServiceFactory) -> RunningService:
    """A service whose tools may reach this machine."""
    return service_factory.start(OUTBOUND_ALLOWED_HOSTS="127.0.0.1")


async def ask_as(page: Page, service: RunningService, role: str, text: str) -> None:
    await page.goto(f"{service.url}/playground/")
    await page.get_by_label("Role").select_option(role)
    await page.get_by_label("Message").fill(text)
    await page.keyboard.press("Enter")


async def test_an_http_tool_is_made_tried_and_called_as_two_roles(
    pages: Pages, reaching: RunningService, administrator: Login, stock: str
):
    name = f"stock_{uuid4().hex[:10]}"
    page = await signed_in(pages, reaching, administrator, "/admin/tools/tool/add/")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Title").fill("Stock")
    await page.get_by_label("Description").fill("Tells how many of a thing a shop has.")
    properties = {"thing": {"type": "string"}, "shop": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["thing"]}
    await editor(page, "Input schema").fill(json.dumps(schema))
    await open_tab(page, "How it is carried out")
    await page.get_by_label("Handler type").select_option("http_endpoint")
    handler = {"method": "GET", "url": "http://10.0.0.1/stock/{thing}", "response": {"pointer": "/data"}}
    await editor(page, "Handler").fill(json.dumps(handler))
    await open_tab(page, "Access")
    await page.get_by_label("Required role").fill("admin")
    await page.get_by_label("Side effects").select_option("idempotent")
    await page.get_by_role("button", name="Save and continue editing").click()
    await expect(page.locator(".field-handler")).to_contain_text("10.0.0.1")
    await editor(page, "Handler").fill(json.dumps({**handler, "url": f"{stock}/stock/{{thing}}"}))
    await page.get_by_role("button", name="Save and continue editing").click()
    await expect(page.get_by_text("was added successfully")).to_be_visible()

    await open_page(page, "Test")
    await page.get_by_label("thing").fill("green/tea")
    await page.get_by_label("shop").fill("Leith")
    await page.get_by_label("As a caller of the role").select_option("admin")
    await page.get_by_role("button", name="Call the tool").click()
    result = page.get_by_role("status", name="Result")
    await expect(result).to_contain_text('"count": 7')
    await expect(result).to_contain_text("green%2Ftea")

    await page.goto(f"{reaching.url}/admin/tools/tool/{name}/change/")
    await page.get_by_role("link", name="Switch on").click()
    await page.locator("#dialog").get_by_role("button", name="Switch on").click()
    await expect(page.get_by_text(f"{name} is on.")).to_be_visible()

    question = f'demo: call {name} {{"thing": "tea"}}'
    await ask_as(page, reaching, "admin", question)
    await expect(page.locator(".run[data-status=success] .bubble.assistant")).to_contain_text('"count":7')
    await ask_as(page, reaching, "user", question)
    answer = page.locator(".run[data-status=success] .bubble.assistant")
    await expect(answer).to_contain_text("The user may not use the tool")
    await expect(answer).to_contain_text("for the role 'admin' alone")
    denied = AuditEvent.objects.filter(action="tool.denied", target_kind="tool", target_id=name)
    assert [event.reason async for event in denied] == ["admin_only"]
