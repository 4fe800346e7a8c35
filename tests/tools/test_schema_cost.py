"""No schema and no value holds up the service: what a check may cost is counted before it is made."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tools.schema_cost import SchemaCost
from tools.schemas import InvalidSchemaError, check_schema, problems

TOO_MUCH = ["(top level): It is too large or too deeply nested to be checked."]


def of_filters() -> dict[str, Any]:
    """Filters as many interfaces have them: `not`, `all`, `any`, or a word."""
    inner = {"$ref": "#/$defs/filter"}
    several = {"type": "array", "items": inner}
    shapes = [{"properties": {"op": {"const": op}, "of": of}, "required": ["op", "of"]} for op, of in
              (("not", inner), ("all", several), ("any", several))]  # fmt: skip
    one_of = [{"type": "object", **shape} for shape in shapes]
    return {
        "type": "object",
        "properties": {"filter": inner},
        "$defs": {"filter": {"oneOf": [*one_of, {"type": "string"}]}},
    }


def nested(depth: int, leaf: Any) -> dict[str, Any]:
    value = leaf
    for _ in range(depth):
        value = {"op": "not", "of": value}
    return {"filter": value}


def doubled(levels: int, *, below: int = 0) -> dict[str, Any]:
    """Each definition refers twice to the next: written small, unfolded 2 to the power of `levels`."""
    definitions: dict[str, Any] = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    part: dict[str, Any] = {"$ref": "#/$defs/d0"}
    for _ in range(below):
        part = {"type": "object", "properties": {"x": part}}
    return {
        "type": "object", "properties": {"x": part}, "$defs": {**definitions, f"d{levels}": {"type": "string"}},
    }  # fmt: skip


@pytest.mark.parametrize("depth", [0, 3, 8])
def test_what_fits_a_recursive_schema_is_taken_and_what_does_not_is_named(depth: int):
    check_schema(of_filters(), of_object=True)
    schema = orjson.dumps(of_filters())
    assert problems(schema, nested(depth, "word")) == []
    [told] = problems(schema, nested(depth, 5))
    assert told.startswith("filter: ")


@pytest.mark.parametrize("leaf", ["word", 5])
def test_a_value_that_could_take_for_ever_is_not_checked_but_refused(leaf: Any):
    assert problems(orjson.dumps(of_filters()), nested(60, leaf)) == TOO_MUCH


def test_a_list_that_leads_back_to_itself_once_may_be_as_deep_as_it_likes():
    schema = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
    value: dict[str, Any] = {}
    for _ in range(100):
        value = {"children": [value]}
    check_schema(schema, of_object=True)
    assert problems(orjson.dumps(schema), value) == []


@pytest.mark.parametrize("schema", [doubled(17), doubled(25, below=3)])
def test_a_schema_that_unfolds_without_measure_is_refused(schema: dict[str, Any]):
    with pytest.raises(InvalidSchemaError, match="unfold"):
        check_schema(schema, of_object=True)


def test_one_that_hides_it_far_down_is_stopped_when_it_is_used():
    schema = doubled(40, below=8)
    value: Any = 1
    for _ in range(9):
        value = {"x": value}
    assert problems(orjson.dumps(schema), value) == TOO_MUCH


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"$ref": "#"}, "leads back to itself"),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}}, "leads back to itself"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {}}, "does not exist"),
        ({"properties": {"a": {"$dynamicRef": "#a"}}, "$defs": {"a": {"$dynamicAnchor": "a"}}}, "not supported"),
    ],
)
def test_references_that_cannot_be_followed_are_refused(schema: dict[str, Any], told: str):
    with pytest.raises(InvalidSchemaError, match=told):
        check_schema({"type": "object", **schema}, of_object=True)


def test_anchors_and_escaped_pointers_are_followed():
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#here"}, "b": {"$ref": "#/$defs/with~1slash%20and~0"}},
        "$defs": {"x": {"$anchor": "here", "type": "integer"}, "with/slash and~": {"type": "integer"}},
    }
    check_schema(schema, of_object=True)
    assert SchemaCost(schema).unfolded == 5
    assert problems(orjson.dumps(schema), {"a": 1, "b": "x"}) != []
