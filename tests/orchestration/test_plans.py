"""What is wrong with a plan is said at once and exactly; what is right runs in the right order with the right values."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from orchestration.plans.progress import PlanProgress
from orchestration.plans.reading import InvalidPlanError, Plan, Surroundings, read_plan
from orchestration.plans.references import UnresolvableError, resolved, value_of

CALCULATOR = {
    "type": "object",
    "properties": {"expression": {"type": "string"}, "digits": {"type": "integer"}},
    "required": ["expression"],
    "additionalProperties": False,
}
CHOICE = {
    "type": "object",
    "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
    "properties": {"a": {"type": "integer"}},
}
SURROUNDINGS = Surroundings(
    tools={"calculator": orjson.dumps(CALCULATOR), "choice": orjson.dumps(CHOICE), "anything": b'{"type": "object"}'},
    frontend={"ask_user"},
    earlier_steps={"before"},
)


def step(name: str, tool: str = "calculator", **more: Any) -> dict[str, Any]:
    return {"id": name, "tool": tool, "arguments": {"expression": "1+1"}, **more}


def reference(name: str, path: str | None = None) -> dict[str, str]:
    return {"$from": name} if path is None else {"$from": name, "path": path}


def read(*steps: dict[str, Any]) -> Plan:
    return read_plan(orjson.dumps({"goal": "to test", "steps": list(steps)}).decode(), SURROUNDINGS)


INVALID: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str]]]] = {
    "no steps": ([], [("/steps", "less than 1 item")]),
    "too many steps": ([step(f"s{n}") for n in range(31)], [("/steps", "There are 31 steps")]),
    "an id that is none": ([step("a b")], [("/steps/0/id", "does not match")]),
    "a field that is not known": ([step("a", when="now")], [("/steps/0", "'when' was unexpected")]),
    "an id twice": ([step("a"), step("a")], [("/steps/1/id", "that of step 0, too")]),
    "a tool that is not offered": ([step("a", "rocket")], [("/steps/0/tool", "There is no tool 'rocket'")]),
    "a tool of the application": ([step("a", "ask_user")], [("/steps/0/tool", "a tool of the user's application")]),
    "a plan within a plan": ([step("a", "make_plan")], [("/steps/0/tool", "cannot hold a plan")]),
    "a circle": (
        [step("a", after=["b"]), step("b", after=["c"]), step("c", arguments={"expression": reference("a")})],
        [("/steps", "wait for each other in a circle")],
    ),
    "itself": (
        [step("a", after=["a"]), step("b", arguments={"expression": reference("b")})],
        [("/steps/0/after/0", "wait for itself"), ("/steps/1/arguments/expression", "its own result")],
    ),
    "steps that are not there": (
        [step("a", after=["x"]), step("b", arguments={"expression": reference("y", "/z")})],
        [("/steps/0/after/0", "no step 'x'"), ("/steps/1/arguments/expression", "no step 'y'")],
    ),
    "a pointer that is none": (
        [step("a"), step("b", arguments={"expression": reference("a", "x/y")})],
        [("/steps/1/arguments/expression", "begin with a slash")],
    ),
    "a reference with more in it": (
        [step("a"), step("b", arguments={"expression": {"$from": "a", "default": 1}})],
        [("/steps/1/arguments/expression", "nothing else, not 'default'")],
    ),
    "arguments that do not fit": (
        [step("a", arguments={}), step("b", arguments={"expression": 2})],
        [("/steps/0/arguments", '"expression" is a required property'), ("/steps/1/arguments", "expression: 2 is not")],
    ),
    "arguments that cannot fit whatever the reference gives": (
        [step("a"), step("b", arguments={"expression": reference("a"), "digits": "two", "colour": reference("a")})],
        [("/steps/1/arguments", "digits:"), ("/steps/1/arguments", "'colour' was unexpected")],
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_all_that_is_wrong_is_told_with_its_place(name: str) -> None:
    steps, expected = INVALID[name]
    with pytest.raises(InvalidPlanError) as refused:
        read(*steps)
    found = [(problem.at, problem.text) for problem in refused.value.problems]
    assert len(found) == len(expected), found
    for (at, text), (expected_at, part) in zip(found, expected, strict=True):
        assert (at, part in text) == (expected_at, True), found


@pytest.mark.parametrize("text", ["", "{", "[]", '{"steps": {}}', "[" * 2000, '{"steps": "' + "x" * 200_000 + '"}'])
def test_what_is_no_plan_at_all_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlanError):
        read_plan(text, SURROUNDINGS)


def test_a_reference_may_stand_where_its_value_decides() -> None:
    plan = read(
        step("a"),
        step("b", "choice", arguments={"a": reference("a")}),
        step("c", "choice", arguments={"a": reference("before", "/deep/0"), "b": 1}),
        step("d", "anything", arguments=reference("a")),
    )
    assert [sorted(found.needs) for found in plan.steps] == [[], ["a"], [], ["a"]]


def test_references_are_replaced_by_values_wherever_they_stand() -> None:
    values = {"w": value_of('{"t": 12.5, "days": [{"a/b": "wet"}]}'), "plain": value_of("not JSON")}
    arguments = {"x": [reference("w", "/t"), {"y": reference("w", "/days/0/a~1b")}], "z": reference("plain"), "n": 1}
    assert resolved(arguments, values) == {"x": [12.5, {"y": "wet"}], "z": "not JSON", "n": 1}


@pytest.mark.parametrize(
    ("name", "path", "hint"),
    [("w", "/temp", "an object with 't'"), ("list", "/5", "a list of 2"), ("plain", "/t", "a text, not a document")],
)
def test_a_reference_to_nothing_says_what_there_is(name: str, path: str, hint: str) -> None:
    values = {"w": {"t": 1}, "list": [1, 2], "plain": "words"}
    with pytest.raises(UnresolvableError, match="has nothing at") as error:
        resolved({"x": reference(name, path)}, values)
    assert hint in str(error.value)


def message(content: str, **more: Any) -> dict[str, Any]:
    return {"id": "m", "role": "tool", "toolCallId": "c", "content": content, **more}


def test_steps_begin_when_what_they_need_is_done_and_are_skipped_when_it_cannot_be() -> None:
    progress = PlanProgress(
        read(step("a"), step("b"), step("c", after=["a"]), step("d", after=["b", "c"]), step("e", after=["d"]))
    )
    assert [found.id for found in progress.take_ready(5)] == ["a", "b"]
    assert [found.id for found in progress.take_ready(5)] == []
    progress.settle("a", message("1"))
    assert [found.id for found in progress.take_ready(5)] == ["c"]
    progress.settle("b", message("It broke.", error="It broke."))
    progress.settle("c", message("3"))
    assert list(progress.take_ready(5)) == []
    shown = {found["id"]: (found["status"], found.get("error")) for found in progress.document()["steps"]}
    assert shown == {
        "a": ("done", None),
        "b": ("failed", "It broke."),
        "c": ("done", None),
        "d": ("skipped", "It needs b, which did not succeed."),
        "e": ("skipped", "It needs d, which did not succeed."),
    }


def test_no_more_steps_run_at_a_time_than_may() -> None:
    progress = PlanProgress(read(*(step(f"s{number}") for number in range(7))))
    assert len(list(progress.take_ready(5))) == 5
    progress.settle("s3", message("2"))
    assert [found.id for found in progress.take_ready(5)] == ["s5"]


def test_long_results_are_cut_to_their_share_and_effects_are_named() -> None:
    progress = PlanProgress(read(*(step(f"s{number}") for number in range(4))))
    for found in list(progress.take_ready(5)):
        progress.settle(found.id, message("x" * 32_000))
    report = progress.report({})
    assert len(report) < 50_000
    first = orjson.loads(report)["steps"][0]
    assert (first["status"], first["cut"], first["took_effect"]) == ("done", True, True)
