"""Registration of functions, and the schemas that their signatures give."""

from typing import Annotated, Any, Literal
from uuid import uuid4

import pytest

from tools.invocation import ToolInvocation
from tools.python_functions import FunctionRegistrationError, schema_of, tool_function, unregister


def test_a_signature_gives_the_schema_of_the_arguments():
    def function(
        city: Annotated[str, {"description": "A city", "maxLength": 80}],
        days: int = 3,
        *,
        unit: Literal["C", "F"] = "C",
        tags: list[str] | None = None,
        extra: dict[str, float] | None = None,
        anything: Any = None,
        invocation: ToolInvocation,
    ) -> None: ...

    assert schema_of(function) == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "A city", "maxLength": 80},
            "days": {"type": "integer"},
            "unit": {"enum": ["C", "F"]},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            "extra": {"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]},
            "anything": {},
        },
        "required": ["city"],
        "additionalProperties": False,
    }


def unknown_type(value: bytes) -> None: ...


def without_type(value) -> None: ...


def with_more(*values: int) -> None: ...


@pytest.mark.parametrize("function", [unknown_type, without_type, with_more])
def test_a_signature_that_no_schema_can_say_is_refused(function: Any):
    with pytest.raises(FunctionRegistrationError):
        schema_of(function)


def test_a_name_can_be_registered_once():
    name = f"test_{uuid4().hex[:12]}"

    async def function() -> None: ...

    tool_function(name, title="x", description="x")(function)
    try:
        with pytest.raises(FunctionRegistrationError, match="twice"):
            tool_function(name, title="x", description="x")(function)
    finally:
        unregister(name)
