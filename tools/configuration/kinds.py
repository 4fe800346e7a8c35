"""What files need to know of each kind, beyond how its things are read, checked and written (`tools.documents`).

Rooms above this one describe their own kinds with `configure_kind`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, TypeAlias

from django.db import models

from tools.configuration.texts import did_you_mean
from tools.documents import DocumentKind, Spec, UnknownKindError, registered_kinds
from tools.governance.explanations import inheritance
from tools.governance.roles import ADMIN, USER, CircularRoleError, check_inheritance
from tools.models import (
    ArgumentRule,
    CallerRole,
    DenyRule,
    GuardrailPolicy,
    GuardrailPolicyVersion,
    HandlerType,
    RemoteServer,
    Tool,
    ToolVersion,
)
from tools.models.names import POLICY_NAME_PATTERN, ROLE_NAME_PATTERN, SERVER_NAME_PATTERN, TOOL_NAME_PATTERN
from tools.python_functions import get_function
from tools.seed import FOLLOWS_THE_CODE, definition_in_code

Fields: TypeAlias = Mapping[str, tuple[type, Any]]
Specs: TypeAlias = Mapping[str, Spec]

_RULE_NAME_PATTERN: Final = rf"^({TOOL_NAME_PATTERN[1:-1]}|\*)/({ROLE_NAME_PATTERN[1:-1]}|\*)$"


class CircularReferenceError(Exception):
    """Things of the files refer to themselves through each other: a message for each, by name; `field` is where."""

    def __init__(self, field: str, messages: Mapping[str, str]) -> None:
        super().__init__(f"{field}: {', '.join(messages)}")
        self.field = field
        self.messages = messages


@dataclass(frozen=True, slots=True)
class Review:
    """What is to be said of a change: problems by field that forbid it, and warnings that do not."""

    problems: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def _alphabetically(specs: Specs) -> list[str]:
    return sorted(specs)


@dataclass(frozen=True, slots=True)
class KindConfiguration:
    """How files treat the things of one kind."""

    folder: str
    """Where exports into a folder put them."""
    name_pattern: str
    about: str
    """One sentence for the documentation."""
    models: tuple[type[models.Model], ...] = ()
    """Whose fields' help texts, choices and bounds describe the fields of the spec."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Names of the models' fields, where they differ from those of the spec."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """What fields mean, where the models do not say it."""
    hint_of_required: str = ""
    """What to add where a field that must be given is not."""
    defaults: Callable[[str], Spec | None] = lambda name: None
    """What a thing of this name says of itself, before the file does; None: the kind's own defaults."""
    in_order: Callable[[Specs], list[str]] = _alphabetically
    """In which order things of the files are written: what others refer to first. Raises CircularReferenceError."""
    review: Callable[[str, Spec | None, Spec], Review] = lambda name, before, after: Review()
    """What files may not change although the kind itself would allow it, and what is worth a warning."""
    pruned: Callable[[str, Spec], Spec | None] = lambda name, spec: None
    """What a thing says once it is no longer wanted; None: it is removed."""
    is_kept: Callable[[str], bool] = lambda name: False
    """Whether pruning passes over it unless it is named."""


_configurations: dict[str, KindConfiguration] = {}


def configure_kind(name: str, configuration: KindConfiguration) -> None:
    """Describe a kind; rooms above this one call it when their app is ready."""
    _configurations[name] = configuration


def configuration_of(kind: DocumentKind) -> KindConfiguration:
    """How files treat this kind."""
    return _configurations[kind.name]


def exported_kinds() -> list[DocumentKind]:
    """The kinds that files have, in the order in which they are written."""
    return [kind for kind in registered_kinds() if kind.exported and kind.name in _configurations]


def exported_kind(name: str) -> DocumentKind:
    """The kind of this name; raises UnknownKindError, with a suggestion."""
    kinds = {kind.name: kind for kind in exported_kinds()}
    if name in kinds:
        return kinds[name]
    if any(kind.name == name for kind in registered_kinds()):
        raise UnknownKindError(f"Things of the kind {name!r} do not stand in files.")
    raise UnknownKindError(f"There is no kind {name!r}.{did_you_mean(name, kinds)}")


def fields_of(kind: DocumentKind) -> Fields:
    """The fields of the kind's spec: type and default, `...` for those that must be given."""
    fields: Fields = getattr(kind, "fields")  # noqa: B009 - not part of the protocol
    return fields


def completed_spec(kind: DocumentKind, name: str, said: Spec) -> Spec:
    """The spec with everything that it leaves out; raises ValidationError keyed by field."""
    return kind.complete({**(configuration_of(kind).defaults(name) or {}), **said})


def in_order(kind: DocumentKind, specs: Specs) -> list[str]:
    """The names in the order in which they can be written; raises CircularReferenceError."""
    return configuration_of(kind).in_order(specs)


# --- tools


def _tool_defaults(name: str) -> Spec | None:
    """A function of this service is on, and what its code says."""
    function = get_function(name)
    if function is None:
        return None
    return {"enabled": True, "owner": "", "tags": [], **definition_in_code(function).as_dict()}


def _review_tool(name: str, before: Spec | None, after: Spec) -> Review:
    """What says how a function is called follows the code: with anything else its calls fail."""
    function = get_function(name)
    if function is None:
        return Review(warnings=_warnings_of_unknown_arguments(after))
    in_code = definition_in_code(function).as_dict()
    others = [field for field in sorted(FOLLOWS_THE_CODE) if after[field] != in_code[field]]
    changed = [field for field in others if before is None or before[field] != after[field]]
    refusal = f"It follows the code of the function {name!r}, which says something else: leave the field out."
    warnings = [
        f"{field} differs from the code of the function {name!r}, as it does now; left out, it would follow it again."
        for field in others
        if field not in changed
    ]
    return Review(dict.fromkeys(changed, refusal), tuple(warnings))


def _warnings_of_unknown_arguments(spec: Spec) -> tuple[str, ...]:
    """A tool of another name on a function of the service may narrow its arguments, but cannot add any."""
    called = spec["handler"].get("function") if spec["handler_type"] == HandlerType.PYTHON_FUNCTION else None
    function = get_function(called) if isinstance(called, str) else None
    if function is None or function.definition.input_schema.get("additionalProperties", True) is not False:
        return ()
    unknown = sorted({*_arguments(spec["input_schema"])} - {*_arguments(function.definition.input_schema)})
    return (f"The function {called!r} does not know the arguments {', '.join(unknown)}.",) if unknown else ()


def _arguments(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties", {})
    return properties if isinstance(properties, dict) else {}


configure_kind(
    "Tool",
    KindConfiguration(
        folder="tools",
        name_pattern=TOOL_NAME_PATTERN,
        about="A tool, under the name that models call. Every change of what it says makes a version.",
        models=(Tool, ToolVersion),
        meanings={
            "title": "For people: what the tool is called.",
            "tags": "Words to find it by.",
            "handler_type": "What carries out a call.",
            "timeout_seconds": "A call is cancelled after it.",
        },
        hint_of_required="Only tools that are functions of this service, under their names, may leave it out.",
        defaults=_tool_defaults,
        review=_review_tool,
        pruned=lambda name, spec: {**spec, "enabled": False},
        is_kept=lambda name: get_function(name) is not None,
    ),
)

# --- roles


def _roles_in_order(specs: Specs) -> list[str]:
    """Inherited roles first, by what will hold in the end: former inheritance must not get in the way."""
    finally_inherits = {**inheritance(), **{name: frozenset(spec["inherits"]) for name, spec in specs.items()}}
    try:
        order = list(
            TopologicalSorter(
                {name: sorted(finally_inherits[name]) for name in sorted(finally_inherits)}
            ).static_order()
        )
    except CycleError:
        circles = dict(_circles(specs, finally_inherits))
        if not circles:  # roles that no file names: the check of each document decides
            return sorted(specs)
        raise CircularReferenceError("inherits", circles) from None
    return [name for name in order if name in specs]


def _circles(specs: Specs, finally_inherits: Mapping[str, frozenset[str]]) -> Iterator[tuple[str, str]]:
    for name, spec in specs.items():
        try:
            check_inheritance(name, frozenset(spec["inherits"]), finally_inherits)
        except CircularRoleError as error:
            yield name, f"{str(error)[0].upper()}{str(error)[1:]}."


configure_kind(
    "Role",
    KindConfiguration(
        folder="roles",
        name_pattern=ROLE_NAME_PATTERN,
        about="A caller role, under the name that the gateway uses.",
        models=(CallerRole,),
        meanings={
            "description": "For people: who has it.",
            "inherits": "Names of the roles whose rights it has, too.",
        },
        in_order=_roles_in_order,
        is_kept=lambda name: name in (USER, ADMIN),
    ),
)

# --- rules and servers

configure_kind(
    "DenyRule",
    KindConfiguration(
        folder="deny-rules",
        name_pattern=_RULE_NAME_PATTERN,
        about="A tool (`*`: every tool) forbidden to a role (`*`: to everybody), under the name `tool/role`.",
        models=(DenyRule,),
    ),
)
configure_kind(
    "ArgumentRule",
    KindConfiguration(
        folder="argument-rules",
        name_pattern=_RULE_NAME_PATTERN.replace(r"|\*", "", 1),
        about="Which arguments callers of a role (`*`: everybody) may call a tool with, under the name `tool/role`.",
        models=(ArgumentRule,),
    ),
)
configure_kind(
    "RemoteServer",
    KindConfiguration(
        folder="remote-servers",
        name_pattern=SERVER_NAME_PATTERN,
        about="An MCP server of others. Its tools are imported in the console, and then are tools like all others.",
        models=(RemoteServer,),
        meanings={
            "title": "For people: what the server is called.",
            "protocol": "Which revision of MCP it speaks; `auto` finds out.",
            "credential_placement": "Where the credential goes: `Authorization: Bearer`, or a header of its own.",
            "timeout_seconds": "How long one request to it may take.",
        },
    ),
)

# --- guardrails

configure_kind(
    "Guardrail",
    KindConfiguration(
        folder="guardrails",
        name_pattern=POLICY_NAME_PATTERN,
        about="A guardrail policy. Every change of what it looks for, where and what then happens makes a version.",
        models=(GuardrailPolicy, GuardrailPolicyVersion),
        pruned=lambda name, spec: {**spec, "enabled": False},
    ),
)
