"""Bringing functions into the registry, again and again."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from audit.actor import Actor
from tools.models import CallerRole, Tool
from tools.python_functions import tool_function, unregister
from tools.seed import seed_tools
from tools.versions import Definition, publish_version, switch_tool

ADMINISTRATOR = Actor(id="console:1", kind="console")


class Code:
    """A function in code, in the form that the next release gives it."""

    def __init__(self) -> None:
        self.name = f"test_{uuid4().hex[:12]}"

    def release(self, *, schema: dict[str, Any] | None = None, **options: Any) -> list[str]:
        unregister(self.name)
        options = {"title": "A test", "description": "For a test.", **options}

        @tool_function(self.name, input_schema=schema or {"type": "object"}, **options)
        async def function() -> str:
            return ""

        return seed_tools()

    @property
    def tool(self) -> Tool:
        return Tool.objects.select_related("current_version").get(name=self.name)

    def change(self, **changes: Any) -> None:
        """What an administrator does in the console."""
        tool = self.tool
        assert tool.current_version is not None
        publish_version(tool, replace(Definition.of(tool.current_version), **changes), by=ADMINISTRATOR)


@pytest.fixture
def code() -> Iterator[Code]:
    code = Code()
    yield code
    unregister(code.name)
    Tool.objects.filter(name=code.name).delete()


def test_a_new_function_becomes_a_tool_that_is_on(code: Code):
    assert code.release(required_role="analyst") == [code.name]

    assert (code.tool.enabled, code.tool.current_version.required_role) == (True, "analyst")


def test_seeding_again_changes_nothing(code: Code):
    code.release()

    assert seed_tools() == []
    assert code.tool.versions.count() == 1


def test_a_function_that_changed_makes_a_version(code: Code):
    code.release()

    assert code.release(description="Better.") == [code.name]
    assert (code.tool.current_version.number, code.tool.current_version.description) == (2, "Better.")


def test_what_an_administrator_changed_stays_when_the_code_changes(code: Code):
    code.release(timeout_seconds=10)
    code.change(required_role="analyst", description="In our words.")

    code.release(timeout_seconds=20, description="In the code's new words.", schema={"type": "object", "title": "new"})

    served = code.tool.current_version
    assert (served.required_role, served.description) == ("analyst", "In our words.")
    assert (served.timeout_seconds, served.input_schema) == (20, {"type": "object", "title": "new"})


def test_what_an_administrator_changed_stays_when_the_code_does_not_change(code: Code):
    code.release()
    code.change(required_role="analyst")

    assert code.release() == []
    assert code.tool.current_version.required_role == "analyst"


def test_a_tool_that_was_switched_off_stays_off(code: Code):
    code.release()
    switch_tool(code.tool, enabled=False, by=ADMINISTRATOR)

    code.release(description="Changed.")

    assert not code.tool.enabled


def test_the_roles_of_the_rules_are_there():
    assert set(CallerRole.objects.filter(name__in=["user", "admin"]).values_list("name", flat=True)) == {
        "user",
        "admin",
    }
