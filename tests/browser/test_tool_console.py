"""The pages about a tool in a browser: somebody makes a tool, tries it, switches it on, compares versions, asks who may call it."""

from __future__ import annotations

from uuid import uuid4

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Login, Pages
from tests.running_service import RunningService

pytestmark = pytest.mark.browser

SCHEMA = (
    '{"type": "object", "properties": {"expression": {"type": "string", "description": "What to work out"}}, '
    '"required": ["expression"]}'
)


async def signed_in(pages: Pages, service: RunningService, login: Login, address: str) -> Page:
    page = await pages.open(height=1000)
    await page.goto(f"{service.url}{address}")
    await login.sign_in(page, f"{service.url}{address}")
    return page


def editor(page: Page, name: str) -> Locator:
    """The editor in the place of a field for JSON."""
    return page.get_by_role("textbox", name=name, exact=True)


async def open_tab(page: Page, title: str) -> None:
    await page.locator("#tool_form nav").get_by_text(title, exact=True).click()


async def open_page(page: Page, title: str) -> None:
    await page.get_by_label("Pages of this tool").get_by_role("link", name=title).click()


def answer_for(page: Page, role: str) -> Locator:
    """The row about a role."""
    return page.locator("tr", has=page.get_by_role("rowheader", name=role, exact=True))


async def call(page: Page, expression: str, role: str) -> None:
    await page.get_by_label("expression").fill(expression)
    await page.get_by_label("As a caller of the role").select_option(role)
    await page.get_by_role("button", name="Call the tool").click()


async def test_a_tool_is_made_tried_switched_on_changed_compared_and_explained(
    pages: Pages, service: RunningService, administrator: Login
):
    name = f"sums_{uuid4().hex[:10]}"
    page = await signed_in(pages, service, administrator, "/admin/tools/tool/add/")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Title").fill("Sums")
    await page.get_by_label("Description").fill("Works out sums.")
    await editor(page, "Input schema").fill(SCHEMA)
    await open_tab(page, "How it is carried out")
    await expect(page.get_by_text("A function of this service, by the name")).to_be_visible()
    await editor(page, "Handler").fill('{"function": "calculator_tool"}')
    await open_tab(page, "Access")
    await page.get_by_label("Required role").fill("admin")
    await page.get_by_label("Side effects").select_option("idempotent")
    await page.get_by_role("button", name="Save and continue editing").click()
    await expect(page.get_by_text("was added successfully")).to_be_visible()

    await open_page(page, "Test")
    await expect(page.get_by_text(f"{name} is switched off.")).to_be_visible()
    await call(page, "6 * 7", "admin")
    result = page.get_by_role("status", name="Result")
    await expect(result).to_contain_text("42")
    await call(page, "6 * 7", "user")
    await expect(result).to_contain_text("denied", ignore_case=True)
    await result.get_by_role("link", name="What the audit trail has of this call").click()
    await expect(page.locator("#result_list")).to_contain_text("admin_only")

    await page.goto(f"{service.url}/admin/tools/tool/{name}/change/")
    await page.get_by_role("link", name="Switch on").click()
    await page.locator("#dialog").get_by_label("Why").fill("tried")
    await page.locator("#dialog").get_by_role("button", name="Switch on").click()
    await expect(page.get_by_text(f"{name} is on.")).to_be_visible()

    await page.get_by_label("Description").fill("Works out sums, exactly.")
    await page.get_by_label("Why").fill("clearer")
    await page.get_by_role("button", name="Save", exact=True).click()
    await page.goto(f"{service.url}/admin/tools/tool/{name}/change/")
    await open_page(page, "Versions")
    await expect(page.get_by_role("row", name="clearer")).to_contain_text("served", ignore_case=True)
    await page.get_by_role("button", name="Compare").click()
    await expect(page.get_by_role("heading", name=f"{name}: version 1 and version 2", level=2)).to_be_visible()
    await expect(page.locator(".console-change").filter(has_text="description")).to_contain_text("exactly")
    await page.get_by_label("Why").fill("was better")
    await page.get_by_role("button", name="Go back to version 1").click()
    await expect(page.get_by_role("row", name="Back to version 1. was better")).to_be_visible()

    await open_page(page, "Who may call it")
    await expect(answer_for(page, "admin")).to_contain_text("yes", ignore_case=True)
    await page.get_by_label("Role").fill("visitor")
    await page.get_by_role("button", name="Ask").click()
    await expect(answer_for(page, "visitor")).to_contain_text("It is for the role 'admin' alone")

    await open_page(page, "Calls")
    await expect(page.get_by_role("row", name="test in the console").first).to_be_visible()


async def test_a_schema_that_is_none_is_marked_while_it_is_written_and_refused_at_its_field(
    pages: Pages, service: RunningService, administrator: Login, switched_tool: str
):
    page = await signed_in(pages, service, administrator, f"/admin/tools/tool/{switched_tool}/change/")
    await editor(page, "Input schema").fill('{"type": ')
    await expect(page.locator(".field-input_schema .cm-lint-marker-error")).to_be_visible()
    await editor(page, "Input schema").fill('{"type": "obj"}')
    await page.get_by_role("button", name="Save", exact=True).click()
    await expect(page.locator(".field-input_schema")).to_contain_text("must say")
    await expect(editor(page, "Input schema")).to_contain_text("obj")


async def test_the_template_of_a_handler_type_is_put_in_where_nothing_else_was_written(
    pages: Pages, service: RunningService, administrator: Login
):
    page = await signed_in(pages, service, administrator, "/admin/tools/tool/add/")
    await open_tab(page, "How it is carried out")
    await page.get_by_label("Handler type").select_option("http_endpoint")
    await expect(page.get_by_text("One HTTP request for each call.")).to_be_visible()
    await expect(editor(page, "Handler")).to_contain_text("https://api.example.com/cities/{city}")
    await editor(page, "Handler").fill('{"url": "https://example.org"}')
    await page.get_by_label("Handler type").select_option("mcp_tool")
    await expect(editor(page, "Handler")).to_contain_text("https://example.org")


async def test_chosen_tools_are_switched_on_from_the_list(
    pages: Pages, service: RunningService, administrator: Login, switched_tool: str
):
    page = await signed_in(pages, service, administrator, "/admin/tools/tool/?state=off")
    await page.locator(f'input.action-select[value="{switched_tool}"]').check()
    await page.locator("select[name=action]").select_option("switch_chosen_on")
    await page.get_by_role("button", name="Run").click()
    await expect(page.get_by_role("heading", name="Switch on 1 tool?", level=2)).to_be_visible()
    await page.get_by_role("button", name="Switch on").click()
    await expect(page.get_by_text("Switched on: browser_")).to_be_visible()
