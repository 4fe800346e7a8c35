"""The registry's own kinds: tools, roles, rules, remote servers, credentials.

Names: a tool's, role's, server's or credential's own; of a rule `tool/role`, with `*` for every tool or everybody.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

import audit
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from tools.addresses import address_problem
from tools.calls import CacheScope, RateLimitScope, SideEffects
from tools.credentials import name_problem
from tools.documents.document import Spec, differences, register_kind
from tools.documents.fields import completed
from tools.governance.approvals import Decider
from tools.governance.explanations import inheritance
from tools.governance.roles import ADMIN, USER, CircularRoleError, check_inheritance
from tools.json_values import same_json
from tools.models import ArgumentRule, CallerRole, DenyRule, HandlerType, RemoteServer, Tool
from tools.schemas import InvalidSchemaError, check_schema
from tools.versions import Definition, check_fields, publish_version, retire_tool, switch_tool

ANY = "*"

_DEFINITION: dict[str, tuple[type, Any]] = {
    "title": (str, ...),
    "description": (str, ...),
    "input_schema": (dict, ...),
    "output_schema": (dict, None),
    "side_effects": (str, SideEffects.UNSAFE.value),
    "handler_type": (str, HandlerType.PYTHON_FUNCTION.value),
    "handler": (dict, ...),
    "required_credentials": (list, []),
    "timeout_seconds": (float, 30.0),
    "output_limit_bytes": (int, 32 * 1024),
    "max_retries": (int, 0),
    "required_role": (str, ""),
    "approval_required": (bool, False),
    "approval_by": (str, Decider.ASKER.value),
    "approver_role": (str, ""),
    "approval_expires_seconds": (int, 0),
    "cache_seconds": (int, 0),
    "cache_scope": (str, CacheScope.USER.value),
    "rate_limit": (str, ""),
    "rate_limit_scope": (str, RateLimitScope.CALLER.value),
    "max_concurrent": (int, 0),
}


class ToolKind:
    """A tool: what its served version says, and whether it is on."""

    name = "Tool"
    group = "tools"
    exported = True
    fields: dict[str, tuple[type, Any]] = {
        "enabled": (bool, False),
        "owner": (str, ""),
        "tags": (list, []),
        **_DEFINITION,
    }

    def names(self) -> list[str]:
        """Tools that have a version."""
        return list(Tool.objects.filter(current_version__isnull=False).order_by("name").values_list("name", flat=True))

    def read(self, name: str) -> Spec | None:
        """Of a tool without a version there is nothing to say."""
        tool = Tool.objects.select_related("current_version").filter(name=name).first()
        if tool is None or tool.current_version is None:
            return None
        about = {"enabled": tool.enabled, "owner": tool.owner, "tags": list(tool.tags)}
        return {**about, **Definition.of(tool.current_version).as_dict()}

    def complete(self, spec: Spec) -> Spec:
        """With defaults as in code."""
        return completed(spec, self.fields, nullable=frozenset({"output_schema"}))

    def check(self, name: str, spec: Spec) -> None:
        """As the form does; but what is only switched off need not fit the rules of today."""
        _validate(Tool(name=name, owner=spec["owner"], tags=spec["tags"]), unique=False)
        definition = definition_of(spec)
        if spec["enabled"] or not self._serves(name, definition):
            check_fields(definition)

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """A new version where the definition changes; switched on or off as it says."""
        tool, _ = Tool.objects.get_or_create(name=name)
        about = {"owner": spec["owner"], "tags": spec["tags"]}
        changed = {field: value for field, value in about.items() if getattr(tool, field) != value}
        if changed:
            before = {field: getattr(tool, field) for field in changed}
            for field, value in changed.items():
                setattr(tool, field, value)
            tool.save(update_fields=[*changed, "updated_at"])
            details = {"note": note, "changes": differences(before, changed)}
            audit.record(actions.TOOL_DESCRIBED, actor=by, target=Target("tool", name), details=details)
        definition = definition_of(spec)
        served = Definition.of(tool.current_version) if tool.current_version else None
        # a version that is served already is not checked again: it could not be switched off otherwise
        if served is None or not same_json(served.as_dict(), definition.as_dict()):
            publish_version(tool, definition, by=by, note=note)
        switch_tool(tool, enabled=spec["enabled"], by=by, note=note)

    @staticmethod
    def _serves(name: str, definition: Definition) -> bool:
        tool = Tool.objects.select_related("current_version").filter(name=name).first()
        if tool is None or tool.current_version is None:
            return False
        return same_json(Definition.of(tool.current_version).as_dict(), definition.as_dict())

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """Tools are named by runs and the audit trail, so they are switched off and stay."""
        retire_tool(Tool.objects.get(name=name), by=by, note=note)


class RoleKind:
    """A caller role and what it inherits."""

    name = "Role"
    group = "roles"
    exported = True
    fields: dict[str, tuple[type, Any]] = {"description": (str, ""), "inherits": (list, [])}

    def names(self) -> list[str]:
        """All described roles."""
        return list(CallerRole.objects.order_by("name").values_list("name", flat=True))

    def read(self, name: str) -> Spec | None:
        """With the names of the roles that it inherits."""
        role = CallerRole.objects.filter(name=name).first()
        if role is None:
            return None
        return {"description": role.description, "inherits": sorted(other.name for other in role.inherits.all())}

    def complete(self, spec: Spec) -> Spec:
        """Inherited roles sorted, each once."""
        found = completed(spec, self.fields)
        return {**found, "inherits": sorted(set(found["inherits"]))}

    def check(self, name: str, spec: Spec) -> None:
        """Every inherited role must be described, and none may lead back here."""
        _validate(CallerRole(name=name, description=spec["description"]), unique=False)
        known = inheritance()
        missing = [role for role in spec["inherits"] if role not in known and role != name]
        if missing:
            raise ValidationError({"inherits": [f"There is no role {role!r}." for role in missing]})
        try:
            check_inheritance(name, frozenset(spec["inherits"]), known)
        except CircularRoleError as error:
            raise ValidationError({"inherits": [f"{str(error)[0].upper()}{str(error)[1:]}."]}) from error

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Make or change the role."""
        before = self.read(name)
        role, _ = CallerRole.objects.update_or_create(name=name, defaults={"description": spec["description"]})
        role.inherits.set(CallerRole.objects.filter(name__in=spec["inherits"]))
        _record(actions.ROLE_CHANGED, role, name, before, spec, by, note)

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """The two roles that the rules themselves know stay. Roles that inherit this one lose its rights, which is recorded, too."""
        if name in (USER, ADMIN):
            raise ValidationError(f"The role {name!r} is part of the rules and cannot be removed.")
        for heir in CallerRole.objects.filter(inherits__name=name).order_by("name"):
            before = self.read(heir.name) or {}
            after = {**before, "inherits": [role for role in before["inherits"] if role != name]}
            _record(
                actions.ROLE_CHANGED, heir, heir.name, before, after, by, f"The role {name} is removed. {note}".strip()
            )
        _delete(actions.ROLE_CHANGED, CallerRole.objects.get(name=name), name, self.read(name), by, note)


class DenyRuleKind:
    """A tool (or all) forbidden to a role (or everybody)."""

    name = "DenyRule"
    group = "roles"
    exported = True
    fields: dict[str, tuple[type, Any]] = {"reason": (str, ...)}

    def names(self) -> list[str]:
        """As `tool/role`."""
        return sorted(rule_name(rule) for rule in DenyRule.objects.select_related("tool"))

    def read(self, name: str) -> Spec | None:
        """Its reason."""
        rule = _deny_rules(name).first()
        return None if rule is None else {"reason": rule.reason}

    def complete(self, spec: Spec) -> Spec:
        """A reason must be given."""
        return completed(spec, self.fields)

    def check(self, name: str, spec: Spec) -> None:
        """The tool must be there."""
        tool, role = _tool_and_role(name)
        _validate(DenyRule(tool=tool, role=role, reason=spec["reason"]), unique=False)

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Make or change the rule."""
        before = self.read(name)
        tool, role = _tool_and_role(name)
        rule, _ = DenyRule.objects.update_or_create(tool=tool, role=role, defaults={"reason": spec["reason"]})
        _record(actions.RULE_CHANGED, rule, name, before, spec, by, note)

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """Lift what the rule forbids."""
        _delete(actions.RULE_CHANGED, _deny_rules(name).get(), name, self.read(name), by, note)


class ArgumentRuleKind:
    """Arguments that callers of a role may call a tool with."""

    name = "ArgumentRule"
    group = "roles"
    exported = True
    fields: dict[str, tuple[type, Any]] = {"schema": (dict, ...), "reason": (str, ...)}

    def names(self) -> list[str]:
        """As `tool/role`."""
        return sorted(rule_name(rule) for rule in ArgumentRule.objects.select_related("tool"))

    def read(self, name: str) -> Spec | None:
        """Schema and reason."""
        rule = _argument_rules(name).first()
        return None if rule is None else {"schema": rule.schema, "reason": rule.reason}

    def complete(self, spec: Spec) -> Spec:
        """Both must be given."""
        return completed(spec, self.fields)

    def check(self, name: str, spec: Spec) -> None:
        """The tool must be there, and the schema one of an object."""
        tool, role = _tool_and_role(name)
        if tool is None:
            raise ValidationError("A rule on arguments needs a tool.")
        _validate(ArgumentRule(tool=tool, role=role, **spec), unique=False)
        try:
            check_schema(spec["schema"], of_object=True)
        except InvalidSchemaError as error:
            raise ValidationError({"schema": [str(error)]}) from error

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Make or change the rule."""
        before = self.read(name)
        tool, role = _tool_and_role(name)
        rule, _ = ArgumentRule.objects.update_or_create(tool=tool, role=role, defaults=spec)
        _record(actions.RULE_CHANGED, rule, name, before, spec, by, note)

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """Arguments are then bound by the tool's schema alone."""
        _delete(actions.RULE_CHANGED, _argument_rules(name).get(), name, self.read(name), by, note)


class RemoteServerKind:
    """An MCP server of others."""

    name = "RemoteServer"
    group = "servers"
    exported = True
    fields: dict[str, tuple[type, Any]] = {
        "title": (str, ""),
        "url": (str, ...),
        "protocol": (str, RemoteServer.Protocol.AUTO.value),
        "credential": (str, ""),
        "credential_placement": (str, RemoteServer.Placement.BEARER.value),
        "credential_header": (str, ""),
        "timeout_seconds": (float, 30.0),
        "enabled": (bool, True),
        "owner": (str, ""),
    }

    def names(self) -> list[str]:
        """All servers."""
        return list(RemoteServer.objects.order_by("name").values_list("name", flat=True))

    def read(self, name: str) -> Spec | None:
        """Its fields."""
        found: Spec | None = RemoteServer.objects.filter(name=name).values(*self.fields).first()
        return found

    def complete(self, spec: Spec) -> Spec:
        """Only the address must be given."""
        return completed(spec, self.fields)

    def check(self, name: str, spec: Spec) -> None:
        """An address without a password in it, and none that is written as a private one; where a name leads is found out later."""
        _validate(RemoteServer(name=name, **spec), unique=False)
        problems: dict[str, list[str]] = {}
        if found := address_problem(spec["url"]):
            problems["url"] = [found]
        if spec["credential"] and name_problem(spec["credential"]):
            problems["credential"] = [name_problem(spec["credential"])]
        is_own_header = spec["credential_placement"] == RemoteServer.Placement.HEADER
        if spec["credential"] and is_own_header and not spec["credential_header"]:
            problems["credential_header"] = ["Say which header carries the credential."]
        if problems:
            raise ValidationError(problems)

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Make or change the server; its tools stay as they are pinned."""
        before = self.read(name)
        server, _ = RemoteServer.objects.update_or_create(name=name, defaults=spec)
        _record(actions.REMOTE_SERVER_CHANGED, server, name, before, spec, by, note)

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """Only a server whose tools are all switched off can go: their calls would fail."""
        used = Tool.objects.filter(remote_tool__server__name=name, enabled=True).values_list("name", flat=True)
        if used:
            raise ValidationError(f"These tools of it are switched on: {', '.join(used)}.")
        server = RemoteServer.objects.get(name=name)
        _delete(actions.REMOTE_SERVER_CHANGED, server, name, self.read(name), by, note)


def definition_of(spec: Spec) -> Definition:
    """The part of a tool's spec that a version says."""
    return Definition(**{name: spec[name] for name in _DEFINITION})


def rule_name(rule: DenyRule | ArgumentRule) -> str:
    """A rule's name in documents: `tool/role`."""
    return f"{rule.tool.name if rule.tool else ANY}/{rule.role or ANY}"


def _parts(name: str) -> tuple[str, str] | None:
    """Tool and role of a rule's name, as written; nothing when it is not one, so that no rule has two names."""
    tool, separator, role = name.partition("/")
    return (tool, role) if tool and separator and role else None


def _tool_and_role(name: str) -> tuple[Tool | None, str]:
    """The tool and role of a rule's name; raises ValidationError when there is no such tool."""
    parts = _parts(name)
    if parts is None:
        raise ValidationError(f"{name!r} is not the name of a rule: expected tool/role, with {ANY} for all.")
    tool_name, role = parts
    tool = None if tool_name == ANY else Tool.objects.filter(name=tool_name).first()
    if tool is None and tool_name != ANY:
        raise ValidationError(f"There is no tool {tool_name!r}.")
    return tool, "" if role == ANY else role


def _deny_rules(name: str) -> models.QuerySet[DenyRule]:
    parts = _parts(name)
    if parts is None:
        return DenyRule.objects.none()
    tool, role = parts
    of_role = DenyRule.objects.filter(role="" if role == ANY else role)
    return of_role.filter(tool=None) if tool == ANY else of_role.filter(tool__name=tool)


def _argument_rules(name: str) -> models.QuerySet[ArgumentRule]:
    parts = _parts(name)
    if parts is None:
        return ArgumentRule.objects.none()
    tool, role = parts
    return ArgumentRule.objects.filter(tool__name=tool, role="" if role == ANY else role)


def _validate(row: models.Model, *, unique: bool) -> None:
    row.full_clean(validate_unique=unique, validate_constraints=False)


def _record(
    action: str, row: models.Model, name: str, before: Spec | None, after: Spec | None, by: Actor, note: str
) -> None:
    details = {"name": name, "note": note, "changes": differences(before, after)}
    audit.record(action, actor=by, target=Target(row._meta.label_lower, str(row.pk)), details=details)


def _delete(action: str, row: models.Model, name: str, before: Spec | None, by: Actor, note: str) -> None:
    _record(action, row, name, before, None, by, note)
    row.delete()


for _kind in (RoleKind(), RemoteServerKind(), ToolKind(), DenyRuleKind(), ArgumentRuleKind()):
    register_kind(_kind)
