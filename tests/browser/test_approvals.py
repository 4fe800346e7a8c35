"""Calls that wait for a person, decided by people: in the playground, by somebody else meanwhile, and in the console's inbox."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from playwright.async_api import Page, expect

from audit.actor import SYSTEM
from tests.browser.conftest import Login, Pages
from tests.running_service import Caller, RunningService, run_input
from tests.runs.support import events, eventually
from tools.models import Tool
from tools.versions import Definition, publish_version, switch_tool

SCHEMA = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}


def make_guarded(service: RunningService, **changes: Any) -> str:
    """A calculator each call of which needs a person's word; the service has seen it."""
    tool = Tool.objects.create(name=f"guarded_{uuid4().hex[:12]}")
    definition = Definition(
        title="Guarded", description="Calculates.", input_schema=SCHEMA, side_effects="idempotent",
        handler={"function": "calculator_tool"}, approval_required=True, **changes,
    )  # fmt: skip
    publish_version(tool, definition, by=SYSTEM)
    switch_tool(tool, enabled=True, by=SYSTEM)
    probe = f'demo: call {tool.name} {{"expression": "1"}}'
    eventually(lambda: not events(service.post_run(Caller(), probe), "TOOL_CALL_RESULT"), "the service has seen it")
    return tool.name


@pytest.fixture(scope="module")
def guarded(service: RunningService) -> str:
    return make_guarded(service)


@pytest.fixture(scope="module")
def four_eyes(service: RunningService) -> str:
    return make_guarded(service, approval_by="someone_else", approver_role="lead")


async def asked(pages: Pages, service: RunningService, tool: str) -> Page:
    """The playground with a question about a call of this tool."""
    page = await pages.open()
    await page.goto(f"{service.url}/playground/")
    box = page.get_by_label("Message", exact=True)
    await box.fill(f'demo: call {tool} {{"expression": "6*7"}}')
    await box.press("Enter")
    await expect(page.get_by_role("group", name="A question to you")).to_contain_text('"expression": "6*7"')
    return page


async def test_in_the_playground_a_call_is_approved_with_other_arguments(
    pages: Pages, service: RunningService, guarded: str
):
    page = await asked(pages, service, guarded)
    question = page.get_by_role("group", name="A question to you").last
    await expect(question).to_contain_text("Until ")
    await question.get_by_role("button", name="Change the arguments").click()
    arguments = question.get_by_label("Arguments")
    await arguments.fill("{")
    await question.get_by_role("button", name="Approve").click()
    await expect(question.get_by_role("alert")).to_contain_text("This is no JSON")
    await arguments.fill('{"expression": 7}')
    async with pages.complaining():  # the browser logs the refusal
        await question.get_by_role("button", name="Approve").click()
        await expect(page.locator(".bubble.error")).to_contain_text("A call with these arguments cannot be made")
    again = page.get_by_role("group", name="A question to you").last
    await again.get_by_role("button", name="Change the arguments").click()
    await again.get_by_label("Arguments").fill('{"expression": "20+3"}')
    await again.get_by_label("Reason").fill("less")
    await again.get_by_role("button", name="Approve").click()
    await expect(again).to_contain_text("Approved with changes")
    await expect(page.locator(".run[data-status=success]").last).to_contain_text("23")


async def test_in_the_playground_a_call_is_denied_with_a_reason(pages: Pages, service: RunningService, guarded: str):
    page = await asked(pages, service, guarded)
    question = page.get_by_role("group", name="A question to you")
    await question.get_by_label("Reason").fill("not on a Tuesday")
    await question.get_by_role("button", name="Deny").click()
    await expect(page.locator(".run[data-status=success]")).to_contain_text("not on a Tuesday")


async def test_the_playground_goes_on_when_somebody_else_has_decided(
    pages: Pages, service: RunningService, four_eyes: str
):
    page = await asked(pages, service, four_eyes)
    question = page.get_by_role("group", name="A question to you")
    await expect(question).to_contain_text("Waits for somebody else")
    await expect(question.get_by_role("button")).to_have_text(["Withdraw"])
    async with httpx.AsyncClient(base_url=service.url, headers=Caller(role="lead").headers, trust_env=False) as lead:
        waiting = (await lead.get("/ag-ui/approvals?limit=100")).json()["approvals"]
        mine = next(one for one in waiting if one["toolName"] == four_eyes)
        answer = await lead.post(f"/ag-ui/approvals/{mine['id']}", json={"decision": "approve"})
    assert answer.status_code == 200, answer.text
    await expect(page.locator(".bubble.assistant").last).to_contain_text("42")
    box = page.get_by_label("Message", exact=True)
    await box.fill("hello")
    await box.press("Enter")
    await expect(page.locator(".bubble.assistant").last).to_contain_text("Hello!")


async def test_in_the_inbox_a_call_is_approved_with_other_arguments(
    pages: Pages, service: RunningService, four_eyes: str, administrator: Login
):
    caller = Caller()
    wish = run_input(f"demo: call {four_eyes} {json.dumps({'expression': '6*7'})}")
    frames = service.stream(caller, "POST", "/ag-ui/events", json=wish)
    [interrupt] = frames[-1].event["outcome"]["interrupts"]
    page = await pages.open(width=1400, height=1000)
    inbox = f"{service.url}/admin/orchestration/interrupt/"
    await page.goto(f"{inbox}?status=open&q={interrupt['id']}")
    await administrator.sign_in(page, f"{inbox}?status=open&q={interrupt['id']}")
    await page.get_by_role("link", name="min ago").first.click()
    await expect(page.locator("#content")).to_contain_text('"expression": "6*7"')
    await expect(page.locator("#content")).to_contain_text(caller.headers["X-Supabase-User-Email"])
    await page.get_by_text("Approve with changes").click()
    await page.locator("[name=arguments]").fill('{"expression": 7}')
    await page.get_by_role("button", name="Approve with these").click()
    await expect(page.locator("body")).to_contain_text("A call with these arguments cannot be made")
    await page.locator("[name=arguments]").fill('{"expression": "8*8"}')
    await page.get_by_role("button", name="Approve with these").click()
    await expect(page.locator("body")).to_contain_text("Decided.")
    await expect(page.locator("body")).to_contain_text("approved with changes")

    def carried_out() -> Any:
        with service.client(caller) as client:
            return client.get(f"/ag-ui/approvals/{interrupt['id']}").json().get("runId")

    run_id = eventually(carried_out, "the thread goes on")
    seen = service.stream(caller, "GET", f"/ag-ui/runs/{run_id}/events")
    assert events(seen, "TOOL_CALL_RESULT")[0]["content"].endswith("\n64")
