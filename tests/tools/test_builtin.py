"""The example tools, as a run calls them."""

import json

import pytest
from django.conf import settings

from agentbackend.foundation.database import Database
from tests.tools.support import Door, somebody
from tools.builtin.debug import register_source
from tools.builtin.weather import API_KEY
from tools.calls import ToolOutcome
from tools.notes import MAX_NOTES_PER_OWNER


@pytest.fixture
def weather_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY, "a-development-value")


# --- weather


@pytest.mark.usefixtures("weather_key")
@pytest.mark.parametrize("location", ["London", "london", " London, UK ", "LONDON,GB"])
async def test_london_has_plausible_weather_that_is_always_the_same(door: Door, location: str):
    result = await door.call("get_weather_tool", {"location": location})

    weather = json.loads(result.content)
    assert weather["location"] == "London, United Kingdom"
    assert 8 <= weather["temperature_c"] <= 20
    assert weather == json.loads((await door.call("get_weather_tool", {"location": "London"})).content)


@pytest.mark.usefixtures("weather_key")
async def test_places_differ_and_accents_do_not(door: Door):
    async def weather(location: str) -> dict[str, object]:
        return json.loads((await door.call("get_weather_tool", {"location": location})).content)

    assert await weather("São Paulo") == await weather("sao paulo")
    assert (await weather("Dubai"))["temperature_c"] > (await weather("Reykjavik"))["temperature_c"]
    assert (await weather("Little Snoring"))["location"] == "Little Snoring"


@pytest.mark.usefixtures("weather_key")
@pytest.mark.parametrize("location", ["Nowhere", "Atlantis", "12345", " ", ", UK"])
async def test_a_place_that_there_is_not_has_no_weather(door: Door, location: str):
    result = await door.call("get_weather_tool", {"location": location})

    assert (result.outcome, result.retryable) == (ToolOutcome.FAILED, False)
    assert "no such place" in result.content


async def test_weather_needs_its_credential(door: Door, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(API_KEY, "")

    result = await door.call("get_weather_tool", {"location": "London"})

    assert result.outcome is ToolOutcome.MISSING_CREDENTIAL
    assert API_KEY not in result.content


async def test_a_credential_of_the_wrong_form_is_not_accepted(door: Door, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(API_KEY, "two words")

    result = await door.call("get_weather_tool", {"location": "London"})

    assert result.outcome is ToolOutcome.FAILED
    assert "did not accept" in result.content


# --- notes


async def test_a_note_is_found_by_its_title_whatever_the_case(door: Door):
    actor = somebody()
    await door.call("add_note_tool", {"title": "Shopping  list", "content": "milk\n'; DROP TABLE"}, actor=actor)

    result = await door.call("get_note_tool", {"title": "shopping LIST"}, actor=actor)

    assert result.value == {"title": "Shopping list", "content": "milk\n'; DROP TABLE"}


async def test_a_note_is_seen_by_its_owner_only(door: Door):
    owner, stranger = somebody(), somebody("admin")
    assert (await door.call("add_note_tool", {"title": "private", "content": "secret"}, actor=owner)).ok

    result = await door.call("get_note_tool", {"title": "private"}, actor=stranger)

    assert result.outcome is ToolOutcome.FAILED
    assert "The user has no notes" in result.content


async def test_tenants_are_kept_apart(door: Door):
    actor = somebody()
    elsewhere = type(actor)(id=actor.id, tenant="another")
    assert (await door.call("add_note_tool", {"title": "t", "content": "here"}, actor=actor)).ok

    assert not (await door.call("get_note_tool", {"title": "t"}, actor=elsewhere)).ok


async def test_a_note_of_the_same_title_is_replaced_and_the_tool_says_so(door: Door):
    actor = somebody()
    first = await door.call("add_note_tool", {"title": "Plan", "content": "a"}, actor=actor)
    second = await door.call("add_note_tool", {"title": "plan", "content": "b"}, actor=actor)

    assert (first.value["replaced"], second.value["replaced"]) == (False, True)
    assert (await door.call("get_note_tool", {"title": "PLAN"}, actor=actor)).value["content"] == "b"


async def test_a_note_that_is_not_there_names_those_that_are(door: Door):
    actor = somebody()
    await door.call("add_note_tool", {"title": "groceries", "content": "a"}, actor=actor)

    result = await door.call("get_note_tool", {"title": "shopping"}, actor=actor)

    assert "'groceries'" in result.content


async def test_nobody_keeps_more_notes_than_one_may(door: Door, database_pool: Database):
    actor = somebody()
    await database_pool.execute(
        "INSERT INTO tools_note (id, tenant, owner_id, title, content) "
        "SELECT gen_random_uuid(), %s, %s, 'note ' || n, 'x' FROM generate_series(1, %s) AS n",
        (actor.tenant, actor.id, MAX_NOTES_PER_OWNER),
    )

    refused = await door.call("add_note_tool", {"title": "one more", "content": "x"}, actor=actor)

    assert (refused.outcome, refused.retryable) == (ToolOutcome.FAILED, False)
    assert str(MAX_NOTES_PER_OWNER) in refused.content
    assert (await door.call("add_note_tool", {"title": "note 1", "content": "changed"}, actor=actor)).ok


@pytest.mark.parametrize(
    "arguments", [{"title": "", "content": "x"}, {"title": "t" * 201, "content": "x"}, {"title": "t"}]
)
async def test_a_note_without_title_or_content_is_refused(door: Door, arguments: dict[str, str]):
    assert (await door.call("add_note_tool", arguments)).outcome is ToolOutcome.INVALID_ARGUMENTS


# --- debug


async def test_the_debug_tool_is_for_administrators_alone(door: Door):
    assert (await door.call("admin_debug_tool", actor=somebody("user"))).outcome is ToolOutcome.DENIED
    assert (await door.call("admin_debug_tool", actor=somebody("manager"))).outcome is ToolOutcome.DENIED
    assert (await door.call("admin_debug_tool", actor=somebody("admin"))).ok


async def test_the_debug_tool_shows_versions_settings_and_sources_and_no_secret(door: Door):
    def broken() -> dict[str, int]:
        raise RuntimeError("password=hunter2")

    register_source("test_source", lambda: {"pending": 3})
    register_source("test_broken_source", broken)

    result = await door.call("admin_debug_tool", actor=somebody("admin"))

    assert result.value["versions"]["django"].startswith("5.")
    assert result.value["settings"]["OPENAI_MODEL"] == settings.OPENAI_MODEL
    assert result.value["registry"]["tools"] >= 5
    assert result.value["test_source"] == {"pending": 3}
    assert result.value["test_broken_source"] == {"error": "RuntimeError"}
    assert settings.SECRET_KEY not in result.content
    assert "hunter2" not in result.content
    assert not [name for name in result.value["settings"] if "KEY" in name or "SECRET" in name or "URL" in name]
