"""Reading a plan: from what the model wrote to steps that can be run, or to everything that is wrong with it.

Nothing runs before the whole plan is in order, so all problems are told at once, each with the place where it stands.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

import orjson

from orchestration.plans.definition import MAKE_PLAN, MAX_STEPS, SCHEMA
from orchestration.plans.references import Reference, references_in
from tools import json_pointer
from tools.schema_cost import size_of
from tools.schemas import problems, problems_around

MAX_PLAN_BYTES: Final = 128 * 1024
MAX_DEPTH: Final = 32
MAX_PROBLEMS: Final = 30
MAX_REFERENCES: Final = 100
_SCHEMA = orjson.dumps(SCHEMA)


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One call of a plan. `needs`: the steps of this plan that must be done first."""

    id: str
    tool: str
    arguments: dict[str, Any]
    purpose: str
    needs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as it can be carried out, its steps in the order in which the model gave them."""

    goal: str
    steps: tuple[PlanStep, ...]


@dataclass(frozen=True, slots=True)
class PlanProblem:
    """What is wrong, and where: a JSON Pointer into the plan."""

    at: str
    text: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a plan may use: the tools offered to its caller with their schemas, the client's own tools, and the finished steps of
    earlier plans."""

    tools: Mapping[str, bytes]
    frontend: Collection[str] = frozenset()
    earlier_steps: Collection[str] = frozenset()


class InvalidPlanError(Exception):
    """The plan cannot be carried out, and nothing of it was."""

    def __init__(self, found: Sequence[PlanProblem]) -> None:
        self.problems = list(found)[:MAX_PROBLEMS]
        super().__init__("; ".join(f"{problem.at}: {problem.text}" for problem in self.problems))


def read_plan(text: str, surroundings: Surroundings) -> Plan:
    """The plan, checked as a whole; raises InvalidPlanError with all that is wrong."""
    document = _document(text)
    found = _Check(document, surroundings).problems()
    if found:
        raise InvalidPlanError(found)
    return _plan(document)


def read_begun_plan(text: str) -> Plan:
    """A plan that was checked when it began: what has changed since is the door's to say, step by step."""
    return _plan(_document(text))


def _document(text: str) -> dict[str, Any]:
    """The document, of the right shape; raises InvalidPlanError."""
    if len(text.encode(errors="surrogatepass")) > MAX_PLAN_BYTES:
        raise InvalidPlanError([PlanProblem("", f"The plan is longer than {MAX_PLAN_BYTES} bytes.")])
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidPlanError([PlanProblem("", f"The plan is not JSON: {error}.")]) from error
    if size_of(document)[1] > MAX_DEPTH:
        raise InvalidPlanError([PlanProblem("", f"The plan is nested more than {MAX_DEPTH} levels deep.")])
    steps = document.get("steps") if isinstance(document, dict) else None
    if isinstance(steps, list) and len(steps) > MAX_STEPS:  # a schema's fault would show all of them
        raise InvalidPlanError(
            [PlanProblem("/steps", f"There are {len(steps)} steps; a plan has at most {MAX_STEPS}.")]
        )
    faults = problems(_SCHEMA, document)
    if faults:
        raise InvalidPlanError([PlanProblem(*_placed(fault)) for fault in faults])
    plan: dict[str, Any] = document
    return plan


def _placed(fault: str) -> tuple[str, str]:
    """`steps[0].id: is wrong` as a pointer and a text."""
    where, _, text = fault.partition(": ")
    if where == "(top level)":
        return "", text
    return "/" + where.replace("[", ".").replace("]", "").replace(".", "/"), text


def _plan(document: dict[str, Any]) -> Plan:
    own = {step["id"] for step in document["steps"]}
    steps = [
        PlanStep(
            id=step["id"],
            tool=step["tool"],
            arguments=step.get("arguments") or {},
            purpose=step.get("purpose", ""),
            needs=frozenset(_needs(step)) & own,
        )
        for step in document["steps"]
    ]
    return Plan(document.get("goal", ""), tuple(steps))


def _needs(step: Mapping[str, Any]) -> set[str]:
    """Everything that a step waits for."""
    return {*step.get("after", ()), *(reference.step for reference in references_in(step.get("arguments") or {}))}


@dataclass(slots=True)
class _Check:
    """The checks of one plan of the right shape."""

    document: dict[str, Any]
    surroundings: Surroundings
    _found: list[PlanProblem] = field(default_factory=list)

    def problems(self) -> list[PlanProblem]:
        """All that is wrong."""
        steps = self.document["steps"]
        first_at: dict[str, int] = {}
        for number, step in enumerate(steps):
            if (first := first_at.setdefault(step["id"], number)) != number:
                self._say(
                    (number, "id"), f"The id {step['id']!r} is that of step {first}, too: each step needs its own."
                )
        for number, step in enumerate(steps):
            references = list(references_in(step.get("arguments") or {}))
            self._check_after(number, step, first_at)
            self._check_references(number, step, references, first_at)
            self._check_tool(number, step, references)
        if len(first_at) == len(steps):
            self._check_order(steps, first_at)
        return self._found

    def _say(self, place: tuple[str | int, ...], text: str) -> None:
        self._found.append(PlanProblem(json_pointer.written(("steps", *map(str, place))), text))

    def _check_after(self, number: int, step: Mapping[str, Any], own: Mapping[str, int]) -> None:
        for index, name in enumerate(step.get("after", ())):
            if name == step["id"]:
                self._say((number, "after", index), "A step cannot wait for itself.")
            elif name not in own and name not in self.surroundings.earlier_steps:
                self._say((number, "after", index), f"There is no step {_cut(name)}.")

    def _check_references(
        self, number: int, step: Mapping[str, Any], references: Sequence[Reference], own: Mapping[str, int]
    ) -> None:
        if len(references) > MAX_REFERENCES:
            text = f"There are {len(references)} references in them; a step has at most {MAX_REFERENCES}."
            self._say((number, "arguments"), text)
        for reference in references:
            place = (number, "arguments", *reference.at)
            if reference.problem:
                self._say(place, reference.problem)
            elif reference.step == step["id"]:
                self._say(place, "A step cannot refer to its own result.")
            elif reference.step not in own and reference.step not in self.surroundings.earlier_steps:
                self._say(place, f"There is no step {_cut(reference.step)} to refer to.")

    def _check_tool(self, number: int, step: Mapping[str, Any], references: Sequence[Reference]) -> None:
        name = step["tool"]
        if name == MAKE_PLAN:
            self._say((number, "tool"), "A plan cannot hold a plan: put its steps into this one.")
        elif name in self.surroundings.frontend:
            text = f"{_cut(name)} is a tool of the user's application: it cannot be part of a plan. Call it by itself."
            self._say((number, "tool"), text)
        elif name not in self.surroundings.tools:
            self._say((number, "tool"), f"There is no tool {_cut(name)} that you may use here. {self._offered()}")
        else:
            self._check_arguments(number, step, references)

    def _offered(self) -> str:
        names = ", ".join(sorted(self.surroundings.tools))
        return f"There are: {names if len(names) <= 600 else names[:600] + '...'}."

    def _check_arguments(self, number: int, step: Mapping[str, Any], references: Sequence[Reference]) -> None:
        schema, arguments = self.surroundings.tools[step["tool"]], step.get("arguments") or {}
        unknown = [reference.at for reference in references]
        faults = problems_around(schema, arguments, unknown) if unknown else problems(schema, arguments)
        for fault in faults:
            self._say((number, "arguments"), f"They do not fit the schema of {step['tool']}: {fault}.")

    def _check_order(self, steps: Sequence[Mapping[str, Any]], own: Mapping[str, int]) -> None:
        """No step may wait for itself by way of others. A step that waits for itself directly is told already."""
        graph = {step["id"]: (_needs(step) & own.keys()) - {step["id"]} for step in steps}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))
            self._found.append(PlanProblem("/steps", f"These steps wait for each other in a circle: {circle}."))


def _cut(name: str) -> str:
    return repr(name if len(name) <= 64 else name[:64] + "...")
