"""Changing tools: publishing versions, switching on and off. The console, the seed and later the import call these.

Every function works inside one transaction, checks before it writes, and records who did what in it. What
cannot be used is refused with Django's ValidationError, whose messages are keyed by field, so that a form can
show each where it belongs.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from django.core.exceptions import ValidationError
from django.db import DEFAULT_DB_ALIAS, transaction

import audit
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from tools.calls import CacheScope, RateLimitScope, SideEffects
from tools.credentials import name_problem
from tools.governance.approvals import Decider
from tools.governance.rate_limits import RateLimitFormatError, read_limit
from tools.handlers import HANDLERS, UnusableHandlerError
from tools.json_values import same_json
from tools.models import ROLE_NAME_PATTERN, HandlerType, Tool, ToolVersion
from tools.python_functions import get_function
from tools.schemas import InvalidSchemaError, check_schema

SEEN_FIELDS = ("title", "description", "input_schema", "output_schema", "side_effects")
"""With the name, what the model and the caller see of a tool: what the digest covers."""


@dataclass(frozen=True, slots=True)
class Definition:
    """Everything that a version says of a tool, before it has a number."""

    title: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    side_effects: str = SideEffects.UNSAFE.value
    handler_type: str = HandlerType.PYTHON_FUNCTION.value
    handler: dict[str, Any] = field(default_factory=dict)
    required_credentials: list[str] = field(default_factory=list)
    required_role: str = ""
    timeout_seconds: float = 30.0
    output_limit_bytes: int = 32 * 1024
    max_retries: int = 0
    approval_required: bool = False
    approval_by: str = Decider.ASKER.value
    approver_role: str = ""
    approval_expires_seconds: int = 0
    cache_seconds: int = 0
    cache_scope: str = CacheScope.USER.value
    rate_limit: str = ""
    rate_limit_scope: str = RateLimitScope.CALLER.value
    max_concurrent: int = 0

    @classmethod
    def of(cls, version: ToolVersion) -> Definition:
        """What a version says."""
        return cls(**{name: getattr(version, name) for name in cls.__slots__})

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def digest_of(name: str, definition: Definition) -> str:
    """SHA-256, in hexadecimal, of what is seen of a tool: JSON with sorted keys and without white space."""
    seen = {"name": name, **{part: getattr(definition, part) for part in SEEN_FIELDS}}
    return hashlib.sha256(orjson.dumps(seen, option=orjson.OPT_SORT_KEYS)).hexdigest()


def differences(old: Definition | None, new: Definition) -> dict[str, dict[str, Any]]:
    """What changes, by field: `{"before": ..., "after": ...}`; everything, when there was nothing before."""
    before = old.as_dict() if old else {}
    after = new.as_dict()
    return {
        name: {"before": before.get(name), "after": value}
        for name, value in after.items()
        if old is None or not same_json(before[name], value)
    }


def check_definition(definition: Definition) -> None:
    """Raise ValidationError, messages keyed by field, unless calls can be made of this definition."""
    problems: dict[str, list[str]] = {}
    for name, found in (
        ("input_schema", _schema_problem(definition.input_schema, of_object=True)),
        ("output_schema", _schema_problem(definition.output_schema, of_object=False)),
        ("handler", _handler_problem(definition)),
        ("required_role", _role_problem(definition.required_role)),
        ("approver_role", _approver_problem(definition)),
        ("max_retries", _retries_problem(definition)),
        ("cache_seconds", _cache_problem(definition)),
        ("rate_limit", _rate_problem(definition.rate_limit)),
    ):
        if found:
            problems[name] = [found]
    names = [found for name in definition.required_credentials if (found := name_problem(name))]
    if names:
        problems["required_credentials"] = names
    if problems:
        raise ValidationError(problems)


def publish_version(
    tool: Tool, definition: Definition, *, by: Actor, note: str = "", using: str = DEFAULT_DB_ALIAS
) -> ToolVersion:
    """Make this definition the version of the tool that is served; one that changes nothing makes no version.

    `using` names the database connection. Raises ValidationError (see `check_definition`).
    """
    check_definition(definition)
    with transaction.atomic(using=using):
        locked = Tool.objects.using(using).select_for_update().get(pk=tool.pk)
        current = locked.current_version
        served = Definition.of(current) if current else None
        if current is not None and not differences(served, definition):
            return current
        version = _new_version(locked, definition, by=by, note=note, using=using)
        locked.current_version = version
        locked.save(using=using, update_fields=["current_version", "updated_at"])
        audit.record(
            actions.TOOL_PUBLISHED,
            actor=by,
            target=Target("tool", locked.name),
            policy_version=policy_version(version),
            details={"number": version.number, "note": note, "changes": differences(served, definition)},
            using=using,
        )
    tool.current_version = version
    return version


def roll_back(tool: Tool, number: int, *, by: Actor, note: str = "", using: str = DEFAULT_DB_ALIAS) -> ToolVersion:
    """Serve again what version `number` said, as a new version: history goes on, it is not rewritten.

    Raises ToolVersion.DoesNotExist, or ValidationError when it can no longer be used.
    """
    old = ToolVersion.objects.using(using).get(tool=tool, number=number)
    said = f"Back to version {number}." + (f" {note}" if note else "")
    return publish_version(tool, Definition.of(old), by=by, note=said, using=using)


def check_fields(definition: Definition) -> None:
    """`check_definition`, and the bounds that the table's columns have; raises ValidationError keyed by field."""
    problems: dict[str, list[str]] = {}
    for check in (check_definition, _check_columns):
        try:
            check(definition)
        except ValidationError as error:
            for name, messages in error.message_dict.items():
                problems.setdefault(name, []).extend(messages)
    if problems:
        raise ValidationError(problems)


def retire_tool(tool: Tool, *, by: Actor, note: str = "", using: str = DEFAULT_DB_ALIAS) -> None:
    """Switch off a tool that is no longer wanted. Its row stays: runs, agents and the audit trail name it."""
    switch_tool(tool, enabled=False, by=by, note=note or "No longer wanted.", using=using)


def switch_tool(tool: Tool, *, enabled: bool, by: Actor, note: str = "", using: str = DEFAULT_DB_ALIAS) -> bool:
    """Switch a tool on or off everywhere, within a second; returns whether that was a change.

    Raises ValidationError when a tool that has no version is switched on.
    """
    with transaction.atomic(using=using):
        locked = Tool.objects.using(using).select_for_update().get(pk=tool.pk)
        if enabled and locked.current_version_id is None:
            raise ValidationError({"enabled": [f"{locked.name} has no version yet: there is nothing to call."]})
        changed = locked.enabled != enabled
        if changed:
            locked.enabled = enabled
            locked.save(using=using, update_fields=["enabled", "updated_at"])
            action = actions.TOOL_ENABLED if enabled else actions.TOOL_DISABLED
            details = {"note": note} if note else None
            audit.record(action, actor=by, target=Target("tool", locked.name), details=details, using=using)
    tool.enabled = enabled
    return changed


def policy_version(version: ToolVersion) -> str:
    """How the audit trail names a version, like `RegisteredTool.policy_version`."""
    return f"{version.tool.name}:{version.number}:{version.digest[:12]}"


def _check_columns(definition: Definition) -> None:
    ToolVersion(**definition.as_dict()).clean_fields(exclude=["id", "tool", "number", "digest"])


def _new_version(tool: Tool, definition: Definition, *, by: Actor, note: str, using: str) -> ToolVersion:
    last = ToolVersion.objects.using(using).filter(tool=tool).order_by("-number").first()
    version = ToolVersion(
        tool=tool,
        number=last.number + 1 if last else 1,
        digest=digest_of(tool.name, definition),
        change_note=note[:500],
        created_by=by.id[:128],
        **definition.as_dict(),
    )
    version.full_clean(exclude=["tool"], validate_unique=False, validate_constraints=False)
    version.save(using=using, force_insert=True)
    return version


def _schema_problem(schema: object, *, of_object: bool) -> str:
    if schema is None and not of_object:
        return ""
    try:
        check_schema(schema, of_object=of_object)
    except InvalidSchemaError as error:
        return str(error)
    return ""


def _handler_problem(definition: Definition) -> str:
    handler = HANDLERS.get(definition.handler_type)
    if handler is None:
        return f"Tools of the type {definition.handler_type!r} cannot be carried out yet."
    try:
        handler.check(definition.handler)
    except UnusableHandlerError as error:
        return str(error)
    return ""


def _role_problem(role: str) -> str:
    if role and not re.fullmatch(ROLE_NAME_PATTERN, role):
        return f"{role!r} is not the name of a role."
    return ""


def _approver_problem(definition: Definition) -> str:
    if definition.approver_role and definition.approval_by != Decider.SOMEONE_ELSE:
        return "A role decides only where someone else than the asker must: choose that, or leave the role empty."
    return _role_problem(definition.approver_role)


def _cache_problem(definition: Definition) -> str:
    if definition.cache_seconds and definition.side_effects != SideEffects.IDEMPOTENT:
        return "Only results of a tool without side effects (idempotent) can be kept."
    function = get_function(str(definition.handler.get("function", "")))
    is_shared = definition.cache_seconds and definition.cache_scope == CacheScope.ROLE
    if is_shared and function is not None and function.takes_invocation:
        return "This function is told who calls: its results can be kept for that user only, not for a role."
    return ""


def _rate_problem(text: str) -> str:
    try:
        if text:
            read_limit(text)
    except RateLimitFormatError as error:
        return str(error)
    return ""


def _retries_problem(definition: Definition) -> str:
    if definition.max_retries and definition.side_effects == SideEffects.UNSAFE:
        return "A tool with unsafe side effects is never repeated."
    return ""
