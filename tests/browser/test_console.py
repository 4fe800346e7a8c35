"""The console in a browser: somebody signs in and finds a run and what was recorded of it."""

from __future__ import annotations

from uuid import uuid4

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Login, Pages
from tests.running_service import Caller, RunningService

pytestmark = pytest.mark.browser


async def test_a_run_is_seen_with_its_steps_events_and_audit_trail(
    pages: Pages, service: RunningService, compliance: Login
):
    run_id = str(uuid4())
    service.post_run(Caller(), "What is the weather like in London?", runId=run_id)
    page = await pages.open()
    await page.goto(f"{service.url}/admin/")
    await compliance.sign_in(page, f"{service.url}/admin/")
    await expect(page.get_by_text("Demo model", exact=True).first).to_be_visible()

    await page.goto(f"{service.url}/admin/orchestration/run/?q={run_id}")
    await page.locator("#result_list tbody th a").click()
    await expect(page.locator(".console-message[data-role=user]")).to_contain_text("London")
    await page.get_by_role("link", name="Steps").click()
    await expect(page.locator("#steps-group")).to_contain_text("get_weather_tool")
    await page.get_by_role("link", name="General").click()
    await page.get_by_text("Events", exact=True).click()
    await expect(page.locator(".console-event").first).to_contain_text("RUN_STARTED")
    await expect(page.locator(".console-event").last).to_contain_text("RUN_FINISHED")

    await page.get_by_role("link", name="All events of this run").click()
    trail = page.locator("#result_list")
    for action in ("run.started", "model.turn", "tool.allowed", "run.finished"):
        await expect(trail).to_contain_text(action)
    await trail.locator("tbody tr", has_text="run.finished").locator("th a").click()
    await expect(page.get_by_text("payload matches its commitment")).to_be_visible()


async def test_a_tool_is_switched_off_and_on_in_a_dialog(
    pages: Pages, service: RunningService, administrator: Login, switched_tool: str
):
    page = await pages.open()
    await page.goto(f"{service.url}/admin/tools/tool/{switched_tool}/change/")
    await administrator.sign_in(page, f"{service.url}/admin/tools/tool/{switched_tool}/change/")
    for command, state in (("Switch on", "is on."), ("Switch off", "is off.")):
        await page.get_by_role("link", name=command).click()
        await page.locator("#dialog").get_by_role("button", name=command).click()
        await expect(page.get_by_text(state)).to_be_visible()
