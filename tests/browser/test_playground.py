"""The playground in a browser, against the real service with the demo model."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Page, Route, expect

from orchestration.models import Agent
from tests.browser.conftest import Login, Pages
from tests.running_service import RunningService, ServiceFactory

pytestmark = pytest.mark.browser

SHORT_LEASE = {"RUN_LEASE_SECONDS": "4", "RUN_HEARTBEAT_SECONDS": "1"}
TWENTY_WORDS = " ".join(f"word{number}" for number in range(1, 21))
WEATHER = "What is the weather like in London?"


async def opened(pages: Pages, service: RunningService, **size: int) -> Page:
    page = await pages.open(**size)
    await page.goto(f"{service.url}/playground/")
    return page


async def ask(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.keyboard.press("Enter")


async def test_a_question_becomes_a_tool_call_and_an_answer(pages: Pages, service: RunningService):
    page = await opened(pages, service)
    await page.get_by_role("button", name=WEATHER).click()
    run = page.locator(".run[data-status=success]")
    await expect(run.locator(".bubble.assistant")).to_contain_text("London")
    card = run.locator(".tool[data-tool=get_weather_tool][data-status=done]")
    await card.locator("summary").click()
    await expect(card.locator("pre").first).to_contain_text('"location": "London"')
    await expect(card.locator(".tool-result")).to_contain_text("temperature_c")
    await expect(run.locator(".steps li")).to_have_count(3)
    await expect(run.locator(".run-footer")).to_contain_text("tokens in")
    await expect(page.get_by_role("note")).to_contain_text("Demo model")


async def test_every_event_is_listed_with_its_number_and_can_be_filtered(pages: Pages, service: RunningService):
    page = await opened(pages, service)
    await ask(page, WEATHER)
    await expect(page.locator(".run[data-status=success]")).to_be_visible()
    events = page.locator(".event")
    await expect(events.first.locator(".event-type")).to_have_text("RUN_STARTED")
    await expect(events.first.locator(".event-number")).to_have_text("1")
    await expect(events.last.locator(".event-type")).to_have_text("RUN_FINISHED")
    await page.get_by_label("Filter events").fill("tool_call_result")
    await expect(events).to_have_count(1)
    await events.locator("summary").click()
    await expect(events.locator("pre")).to_contain_text('"type": "TOOL_CALL_RESULT"')


async def test_a_second_question_goes_on_in_the_same_thread(pages: Pages, service: RunningService):
    page = await opened(pages, service)
    await ask(page, WEATHER)
    await expect(page.locator(".run[data-status=success]")).to_have_count(1)
    thread = await page.locator("#thread-id").inner_text()
    await ask(page, "What is 6 * 7?")
    await expect(page.locator(".run[data-status=success]")).to_have_count(2)
    await expect(page.locator(".run").last).to_contain_text("42")
    assert await page.locator("#thread-id").inner_text() == thread
    await page.get_by_role("button", name="New thread").click()
    await expect(page.locator(".run")).to_have_count(0)
    assert await page.locator("#thread-id").inner_text() != thread


async def test_stopping_really_stops_the_run(pages: Pages, service: RunningService):
    page = await opened(pages, service)
    await ask(page, "Tell me a long story")
    await expect(page.locator(".bubble.assistant")).to_contain_text("Every")
    await page.keyboard.press("Escape")
    await expect(page.locator(".run[data-status=cancelled]")).to_contain_text("Stopped")
    await expect(page.locator(".event").last).to_contain_text("RUN_FINISHED")


async def test_a_refusal_says_its_code_and_what_to_do(pages: Pages, service: RunningService):
    page = await opened(pages, service)

    async def without_identity(route: Route) -> None:
        kept = {name: value for name, value in route.request.headers.items() if not name.startswith("x-supabase")}
        await route.continue_(headers=kept)

    await page.route("**/ag-ui/events", without_identity)
    async with pages.complaining():
        await ask(page, WEATHER)
        await expect(page.get_by_role("alert")).to_contain_text("invalid_user_id")
    await page.unroute("**/ag-ui/events")
    await ask(page, WEATHER)
    await expect(page.locator(".run[data-status=success]")).to_have_count(1)


async def broken_off(route: Route) -> None:
    """The run begins, and its first frames arrive."""
    answer = await route.fetch()
    await route.fulfill(response=answer, body="\n\n".join((await answer.text()).split("\n\n")[:6]) + "\n\n")


async def test_a_broken_connection_mends_itself(pages: Pages, service: RunningService):
    page = await opened(pages, service)

    await page.route("**/ag-ui/events", broken_off)
    await ask(page, WEATHER)
    await expect(page.locator(".run[data-status=success] .bubble.assistant")).to_contain_text("London")
    await expect(page.get_by_role("alert")).to_have_count(0)
    await assert_every_event_once(page)


async def test_a_connection_that_stays_broken_is_said_and_the_run_can_be_followed_later(
    pages: Pages, service: RunningService
):
    page = await pages.open()
    await page.clock.install()
    await page.goto(f"{service.url}/playground/")

    await page.route("**/ag-ui/events", broken_off)
    await page.route("**/ag-ui/runs/*/events*", lambda route: route.abort("connectionrefused"))
    async with pages.complaining():
        await ask(page, WEATHER)
        await expect(page.locator(".run .reconnecting")).to_contain_text("Reconnecting…")
        for _ in range(40):  # attempts, each after a pause
            await page.clock.fast_forward(20_000)
            if await page.get_by_role("alert").count():
                break
        await expect(page.get_by_role("alert")).to_contain_text("connection_lost")
    await page.unroute("**/ag-ui/runs/*/events*")
    await page.get_by_role("button", name="Follow the run").click()
    await expect(page.locator(".run[data-status=success] .bubble.assistant")).to_contain_text("London")
    await assert_every_event_once(page)


async def assert_every_event_once(page: Page) -> None:
    numbers = [int(number) for number in await page.locator(".event-number").all_inner_texts() if number.isdigit()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.timeout(180)
async def test_an_answer_is_whole_though_the_service_was_restarted_in_the_middle_of_it(
    pages: Pages, service_factory: ServiceFactory, number: int
):
    service = service_factory.start(**SHORT_LEASE)
    page = await opened(pages, service)
    async with pages.complaining():  # about connections that are refused meanwhile
        await ask(page, "demo: slow 600")
        await expect(page.locator(".bubble.assistant")).to_contain_text("word3")
        await asyncio.to_thread(service.stop, number)
        await expect(page.locator(".run .reconnecting")).to_be_visible()
        await asyncio.to_thread(lambda: service_factory.start(port=service.port, **SHORT_LEASE))
        await expect(page.locator(".run[data-status=success]")).to_have_count(1, timeout=90_000)
    await expect(page.locator(".run .reconnecting")).to_be_hidden()
    await expect(page.get_by_role("alert")).to_have_count(0)
    await assert_every_event_once(page)
    assert await page.locator(".bubble.assistant").all_inner_texts() == [TWENTY_WORDS]


HARMFUL = (
    "![x](https://elsewhere.invalid/leak.png) <img src=x onerror=alert(1)> <script>alert(1)</script> "
    "<style>body{display:none}</style> <b onclick=alert(1) style='position:fixed'>bold</b> "
    "[bad](javascript:alert(1)) [good](https://example.org/)"
)


async def test_what_a_model_writes_can_neither_run_nor_load_anything(pages: Pages, service: RunningService):
    page = await opened(pages, service)

    async def answered(route: Route) -> None:
        asked = route.request.post_data_json
        ids = {"threadId": asked["threadId"], "runId": asked["runId"]}
        events = [
            {"type": "RUN_STARTED", "protocolVersion": "1.0", **ids},
            {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
            {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": HARMFUL},
            {"type": "TEXT_MESSAGE_END", "messageId": "m"},
            {"type": "RUN_FINISHED", **ids},
        ]
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        await route.fulfill(status=200, content_type="text/event-stream", body=body)

    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    await page.route("**/ag-ui/events", answered)
    await ask(page, "Show me")
    bubble = page.locator(".run[data-status=success] .bubble.assistant")
    await expect(bubble.get_by_role("link", name="good")).to_have_attribute("rel", re.compile("noopener"))
    await expect(bubble).to_contain_text("<script>alert(1)</script>")
    await expect(bubble.locator("img, script, style, [style], [onclick], [onerror], [href^=javascript]")).to_have_count(
        0
    )
    assert not [url for url in requested if not url.startswith(service.url)]


async def test_a_page_that_is_loaded_again_shows_the_thread_and_goes_on_with_its_run(
    pages: Pages, service: RunningService
):
    page = await opened(pages, service)
    await ask(page, WEATHER)
    await expect(page.locator(".run[data-status=success]")).to_have_count(1)
    weather = await page.locator(".bubble.assistant").inner_text()
    await ask(page, "demo: slow 300")
    await expect(page.locator(".bubble.assistant").last).to_contain_text("word3")
    run = await page.locator("#run-id").inner_text()
    await page.reload()
    await expect(page.locator(".run[data-status=success]").last).to_contain_text("word20", timeout=20_000)
    assert await page.locator(".bubble").all_inner_texts() == [WEATHER, weather, "demo: slow 300", TWENTY_WORDS]
    await expect(page.locator(".tool[data-tool=get_weather_tool][data-status=done]")).to_have_count(1)
    await expect(page.locator("#run-id")).to_have_text(run)
    await ask(page, "What is 6 * 7?")
    await expect(page.locator(".run").last).to_contain_text("42")
    await page.reload()
    await expect(page.locator(".bubble.user")).to_have_text([WEATHER, "demo: slow 300", "What is 6 * 7?"])
    await expect(page.locator(".event").last).to_contain_text("RUN_FINISHED")


@pytest.mark.timeout(180)
async def test_a_run_that_was_joined_survives_a_restart_of_the_service_too(
    pages: Pages, service_factory: ServiceFactory
):
    service = service_factory.start(**SHORT_LEASE)
    page = await opened(pages, service)
    await ask(page, "demo: slow 700")
    await expect(page.locator(".bubble.assistant")).to_contain_text("word2")
    await page.reload()
    await expect(page.locator(".bubble.assistant")).to_contain_text("word4")
    async with pages.complaining():
        await asyncio.to_thread(service.stop, signal.SIGKILL)
        await asyncio.to_thread(lambda: service_factory.start(port=service.port, **SHORT_LEASE))
        await expect(page.locator(".run[data-status=success]")).to_have_count(1, timeout=90_000)
    assert await page.locator(".bubble").all_inner_texts() == ["demo: slow 700", TWENTY_WORDS]


async def test_threads_are_listed_and_opened_again(pages: Pages, service: RunningService):
    page = await opened(pages, service)
    await page.get_by_role("button", name="Threads", exact=True).click()
    threads = page.get_by_role("complementary", name="Threads").locator(".thread")
    await expect(page.locator("#threads-note")).to_have_text("Your threads are listed here.")
    await ask(page, "What is 6 * 7?")
    await expect(page.locator(".run[data-status=success]")).to_have_count(1)
    await page.get_by_role("button", name="New thread").click()
    await ask(page, WEATHER)
    await expect(page.locator(".run[data-status=success]")).to_have_count(1)
    await expect(threads.locator(".thread-name")).to_have_text([WEATHER, "What is 6 * 7?"])
    await threads.last.click()
    await expect(page.locator(".bubble.user")).to_have_text(["What is 6 * 7?"])
    await expect(page.locator(".bubble.assistant")).to_contain_text("42")
    await expect(threads.last).to_have_attribute("aria-current", "")
    await page.go_back()
    await expect(page.locator(".bubble.user")).to_have_text([WEATHER])


async def test_an_address_of_no_thread_begins_one(pages: Pages, service: RunningService):
    page = await pages.open()
    await page.goto(f"{service.url}/playground/#thread=not-there-{uuid4()}")
    await expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    await ask(page, "What is 6 * 7?")
    await expect(page.locator(".run[data-status=success]")).to_contain_text("42")


async def test_every_enabled_agent_can_be_chosen(pages: Pages, service: RunningService):
    name = f"Second {uuid4().hex[:8]}"
    agent = await Agent.objects.acreate(slug=name.lower().replace(" ", "-"), name=name)
    try:
        page = await opened(pages, service)
        await page.locator("#agent").select_option(name)
        async with page.expect_request(f"**/ag-ui/agent/{agent.slug}/run"):
            await ask(page, "What is 6 * 7?")
        await expect(page.locator(".run[data-status=success]")).to_have_count(1)
        await page.reload()
        await expect(page.locator(".bubble.user")).to_have_text(["What is 6 * 7?"])
        await expect(page.locator("#agent")).to_have_value(agent.slug)
    finally:
        await Agent.objects.filter(pk=agent.pk).aupdate(enabled=False)


async def answered_with(page: Page, *answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answer runs with these events, one list each; returns what was posted."""
    posted: list[dict[str, Any]] = []
    left = iter(answers)

    async def answered(route: Route) -> None:
        asked = route.request.post_data_json
        posted.append(asked)
        ids = {"threadId": asked["threadId"], "runId": asked["runId"]}
        events = [{"type": "RUN_STARTED", "protocolVersion": "1.0", **ids}, *next(left)]
        if events[-1].get("type") != "RUN_FINISHED":
            events.append({"type": "RUN_FINISHED"})
        events[-1] |= ids
        body = "".join(
            f"id: {asked['runId']}.{number}\ndata: {json.dumps(event)}\n\n" for number, event in enumerate(events, 1)
        )
        await route.fulfill(status=200, content_type="text/event-stream", body=body)

    await page.route("**/ag-ui/events", answered)
    return posted


def said(text: str, message_id: str = "m") -> list[dict[str, Any]]:
    return [
        {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": text},
        {"type": "TEXT_MESSAGE_END", "messageId": message_id},
    ]


def interrupted_by(*interrupts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "RUN_FINISHED", "outcome": {"type": "interrupt", "interrupts": list(interrupts)}}


REPEAT = {
    "id": "q1",
    "reason": "tool_call",
    "message": "The tool send_parcel may have taken effect. What now?",
    "responseSchema": {
        "type": "object",
        "properties": {"decision": {"type": "string", "enum": ["repeat", "skip"]}},
        "required": ["decision"],
    },
}


async def test_a_question_is_answered_with_what_its_schema_allows(pages: Pages, service: RunningService):
    page = await opened(pages, service)
    posted = await answered_with(page, [interrupted_by(REPEAT)], said("It was sent again."))
    await ask(page, "Send it")
    question = page.get_by_role("group", name="A question to you")
    await expect(question).to_contain_text("may have taken effect")
    await expect(question.get_by_role("button")).to_have_text(["Repeat", "Skip", "Dismiss"])
    await question.get_by_role("button", name="Repeat").click()
    await expect(page.locator(".run").last).to_contain_text("It was sent again.")
    await expect(question).to_contain_text("Repeat")
    await expect(question.get_by_role("button")).to_have_count(0)
    assert posted[1]["resume"] == [{"interruptId": "q1", "status": "resolved", "payload": {"decision": "repeat"}}]
    assert posted[1]["threadId"] == posted[0]["threadId"]
    assert posted[1]["runId"] != posted[0]["runId"]


async def test_several_questions_are_answered_together(pages: Pages, service: RunningService):
    page = await opened(pages, service)
    approval = {
        "id": "q2",
        "reason": "confirmation",
        "message": "Shall the invoice be paid, too?",
        "responseSchema": {
            "type": "object",
            "properties": {"approved": {"type": "boolean"}, "note": {"type": "string"}, "times": {"type": "integer"}},
            "required": ["approved"],
        },
    }
    posted = await answered_with(page, [interrupted_by(REPEAT, approval)], said("Done."))
    await ask(page, "Send it")
    questions = page.get_by_role("group", name="A question to you")
    await questions.nth(0).get_by_role("button", name="Dismiss").click()
    assert len(posted) == 1
    await questions.nth(1).get_by_role("button", name="Answer").click()
    assert len(posted) == 1, "nothing is agreed to by default"
    await questions.nth(1).get_by_label("Approved").select_option("Yes")
    await questions.nth(1).get_by_label("Note").fill("by Friday")
    await questions.nth(1).get_by_label("Times").fill("2")
    await questions.nth(1).get_by_role("button", name="Answer").click()
    await expect(page.locator(".run").last).to_contain_text("Done.")
    assert posted[1]["resume"] == [
        {"interruptId": "q1", "status": "cancelled"},
        {
            "interruptId": "q2",
            "status": "resolved",
            "payload": {"approved": True, "note": "by Friday", "times": 2},
        },
    ]


async def test_a_message_instead_of_an_answer_goes_on_without_one(pages: Pages, service: RunningService):
    page = await opened(pages, service)
    posted = await answered_with(page, [interrupted_by(REPEAT)], said("As you like."))
    await ask(page, "Send it")
    await expect(page.get_by_role("group", name="A question to you")).to_be_visible()
    await ask(page, "Never mind")
    await expect(page.locator(".run").last).to_contain_text("As you like.")
    await expect(page.get_by_role("group", name="A question to you")).to_contain_text("Not answered")
    assert posted[1]["resume"] == [{"interruptId": "q1", "status": "cancelled"}]
    assert posted[1]["messages"][-1]["content"] == "Never mind"


async def test_what_a_process_that_ended_had_begun_is_taken_away(pages: Pages, service: RunningService):
    page = await opened(pages, service)
    recovered = {"type": "CUSTOM", "name": "run_recovered", "value": {"attempt": 2, "discarded": ["m", "call"]}}
    begun = {"type": "STEP_STARTED", "stepName": "model turn 1"}
    ended = {"type": "STEP_FINISHED", "stepName": "model turn 1"}
    call = [
        {"type": "TOOL_CALL_START", "toolCallId": "call", "toolCallName": "send_parcel"},
        {"type": "TOOL_CALL_END", "toolCallId": "call"},
    ]
    await answered_with(
        page, [begun, *said("The half of"), *call, recovered, ended, begun, *said("The whole of it.", "n"), ended]
    )
    await ask(page, "Go on")
    await expect(page.locator(".run[data-status=success]")).to_have_count(1)
    assert await page.locator(".bubble.assistant").all_inner_texts() == ["The whole of it."]
    await expect(page.locator(".tool")).to_have_count(0)
    await expect(page.locator(".steps li[data-status=done] .step-time")).to_have_count(1)


async def test_on_a_narrow_screen_the_events_open_as_a_drawer(pages: Pages, service: RunningService):
    page = await opened(pages, service, width=390, height=800)
    await expect(page.locator("#events-panel")).to_be_hidden()
    await page.get_by_role("button", name="Events", exact=True).click()
    await expect(page.locator("#events-panel")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#events-panel")).to_be_hidden()
    assert await page.locator("html").evaluate("page => page.scrollWidth <= page.clientWidth")


async def test_outside_debug_the_console_session_is_enough(
    pages: Pages, service_factory: ServiceFactory, administrator: Login
):
    service = service_factory.start(DJANGO_DEBUG="0", DJANGO_ALLOWED_HOSTS="localhost,127.0.0.1")
    url = service.url.replace("127.0.0.1", "localhost")  # browsers keep secure cookies for this name without TLS
    page = await pages.open()
    await page.goto(f"{url}/playground/")
    await administrator.sign_in(page, f"{url}/playground/")
    await expect(page.get_by_label("Role")).to_have_count(0)
    await page.route("**/playground/events", broken_off)
    await ask(page, WEATHER)
    await expect(page.locator(".run[data-status=success] .bubble.assistant")).to_contain_text("London")
    await assert_every_event_once(page)
    await page.unroute("**/playground/events")
    await ask(page, "Tell me a long story")
    await expect(page.locator(".bubble.assistant").last).to_contain_text("Every")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator(".run[data-status=cancelled]")).to_contain_text("Stopped")
    await page.reload()
    await expect(page.locator(".bubble.user")).to_have_text([WEATHER, "Tell me a long story"])
    await page.get_by_role("button", name="Threads", exact=True).click()
    await expect(page.locator(".thread")).to_have_count(1)
    await assert_the_session_is_used_by_the_page_only(page, url)


async def assert_the_session_is_used_by_the_page_only(page: Page, url: str) -> None:
    begun_by_a_link = await page.request.get(f"{url}/playground/events?user_message=hello")
    assert begun_by_a_link.status == 405
    run = f"{url}/playground/runs/{await page.locator('#run-id').inner_text()}"
    for headers, status in (
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://elsewhere.invalid"}, 403),
    ):
        assert (await page.request.get(f"{run}/events", headers=headers)).status == status
    assert (await page.request.post(f"{run}/cancel", headers={"Origin": "https://elsewhere.invalid"})).status == 403
    assert (await page.request.post(f"{run}/cancel")).status == 403
