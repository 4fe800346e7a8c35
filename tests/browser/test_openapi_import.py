"""From an address of an OpenAPI document to a tool that answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Login, Pages
from tests.browser.test_tool_console import open_page, signed_in
from tests.running_service import RunningService, ServiceFactory

pytestmark = pytest.mark.browser

_LIST = {
    "operationId": "listPets",
    "summary": "List pets",
    "description": "Lists the pets of a shop.",
    "parameters": [
        {"name": "shop", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 100}},
    ],
    "responses": {"200": {"description": "", "content": {"application/json": {"schema": {"type": "object"}}}}},
}
_UPLOAD = {"operationId": "uploadPicture", "requestBody": {"content": {"multipart/form-data": {}}}}
_DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "Pet shop", "version": "1.4"},
    "servers": [{"url": "/api"}],
    "paths": {"/shops/{shop}/pets": {"get": _LIST}, "/pictures": {"post": _UPLOAD}},
}


class _PetShop(BaseHTTPRequestHandler):
    """Describes itself, and answers with what it was asked."""

    def do_GET(self) -> None:
        body = json.dumps(_DOCUMENT if self.path == "/openapi.json" else {"asked": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pet_shop() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _PetShop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def reaching(service_factory: ServiceFactory) -> RunningService:
    """A service whose tools may reach this machine."""
    return service_factory.start(OUTBOUND_ALLOWED_HOSTS="127.0.0.1")


async def test_a_document_is_read_from_its_address_and_its_operation_called(
    pages: Pages, reaching: RunningService, administrator: Login, pet_shop: str
):
    prefix = f"shop{uuid4().hex[:8]}_"
    page = await signed_in(pages, reaching, administrator, "/admin/tools/tool/")
    await page.get_by_role("link", name="Import from OpenAPI").click()
    await page.get_by_label("Address").fill("http://169.254.169.254/openapi.json")
    await page.get_by_role("button", name="Read the document").click()
    await expect(page.get_by_role("alert")).to_contain_text("may not be reached")
    await page.get_by_label("Address").fill(f"{pet_shop}/openapi.json")
    await page.get_by_role("button", name="Read the document").click()

    await expect(page.get_by_text("1 of 2 operations can become tools")).to_be_visible()
    await expect(page.get_by_text("Its body is multipart/form-data")).to_be_visible()
    await page.get_by_label("Prefix of names").fill(prefix)
    await page.get_by_label("Choose GET /shops/{shop}/pets").check()
    await page.get_by_role("button", name="Show what they become").click()
    await page.get_by_text(f"Definition of {prefix}listPets").click()
    await expect(page.locator(".console-code")).to_contain_text(f"{pet_shop}/api/shops/{{shop}}/pets")
    await page.get_by_label("Why").fill("Sales asked for it")
    await page.get_by_role("button", name="Import 1 tool").click()
    await page.get_by_role("link", name=f"{prefix}listPets").click()

    await open_page(page, "Test")
    await expect(page.get_by_text(f"{prefix}listPets is switched off")).to_be_visible()
    await page.get_by_label("shop").fill("Leith/2")
    await page.get_by_label("limit").fill("3")
    await page.get_by_role("button", name="Call the tool").click()
    await expect(page.get_by_role("status", name="Result")).to_contain_text("/api/shops/Leith%2F2/pets?limit=3")
