"""Taking tools of servers into the registry: imported switched off, pinned to what was looked at, changed only when somebody says so.

Which tool of the registry stands for which remote one, and what it is pinned to, is read from the handler's settings of the version that
is served: so it is right also after a second person's approval, a roll back, or a file of configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import transaction

import audit
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from tools.calls import SideEffects
from tools.changes import submit
from tools.documents import Document, Spec, kind_named
from tools.mcp_client.dialects import usable_schema
from tools.models import ChangeRequest, HandlerType, RemoteTool, Tool
from tools.versions import Definition

State = RemoteTool.State

SEEN: Final = ("title", "description", "input_schema", "output_schema")
"""What a change of a remote tool can change here."""

_MAX_TITLE = 120
_MAX_TOOL_NAME = 64


@dataclass(frozen=True, slots=True)
class Import:
    """A tool of the registry that stands for a remote one."""

    tool: Tool
    pinned: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A tool that was imported or accepted under a name; `is_proposed`: a second person must approve it first."""

    name: str
    is_proposed: bool


def imports_of(server_name: str) -> dict[str, Import]:
    """By remote name. Where several stand for the same one, the oldest counts."""
    tools = Tool.objects.filter(
        current_version__handler_type=HandlerType.MCP_TOOL, current_version__handler__server=server_name
    ).select_related("current_version")
    found: dict[str, Import] = {}
    for tool in tools.order_by("created_at", "name"):
        assert tool.current_version is not None
        settings = tool.current_version.handler
        found.setdefault(settings["tool"], Import(tool, settings["pinned"]))
    return found


def changes_of(remote: RemoteTool, tool: Tool) -> dict[str, dict[str, Any]]:
    """What is served beside what the server says now, by field, where they differ."""
    assert tool.current_version is not None
    served = Definition.of(tool.current_version).as_dict()
    offered = {field: getattr(remote, field) for field in SEEN} if remote.problem else offered_spec(remote)
    return {
        field: {"before": served[field], "after": offered[field]} for field in SEEN if served[field] != offered[field]
    }


def offered_spec(remote: RemoteTool) -> Spec:
    """What a version would say of it, in the registry's terms. Raises InvalidSchemaError for one that has a problem."""
    output = remote.output_schema
    return {
        "title": (remote.title.strip() or remote.remote_name)[:_MAX_TITLE],
        "description": remote.description.strip() or f"The tool {remote.remote_name} of {remote.server.name}.",
        "input_schema": usable_schema(remote.input_schema, of_object=True),
        "output_schema": None if output is None else usable_schema(output, of_object=False),
    }


def import_tool(remote: RemoteTool, digest: str, *, by: Actor, reason: str = "") -> Taken:
    """Put a remote tool into the registry as it was looked at (`digest`), switched off. Raises ValidationError.

    Its side effects are `unsafe` whatever the server hints: a hint costs a server nothing, and a call that is repeated wrongly may cost
    us much. Who knows better changes it.
    """
    with transaction.atomic():
        held = _held(remote, digest)
        name = _free_name(held)
        spec = {
            **offered_spec(held),
            "enabled": False,
            "owner": held.server.owner,
            "tags": [held.server.name],
            "side_effects": SideEffects.UNSAFE.value,
            "handler_type": HandlerType.MCP_TOOL.value,
            "handler": _settings(held),
            "timeout_seconds": held.server.timeout_seconds,
        }
        proposal = submit(Document("Tool", name, spec), by=by, reason=reason or f"Imported from {held.server.name}.")
        _record(actions.REMOTE_TOOL_IMPORTED, held, name, proposal, by)
        if proposal is None:
            _link(held, Tool.objects.get(name=name))
    return Taken(name, proposal is not None)


def accept_change(remote: RemoteTool, digest: str, *, by: Actor, reason: str = "") -> Taken:
    """Serve what the server says now (as it was looked at: `digest`) as a new version. Raises ValidationError."""
    with transaction.atomic():
        held = _held(remote, digest)
        tool = _imported(held)
        spec = kind_named("Tool").read(tool.name)
        assert spec is not None
        spec |= {**offered_spec(held), "handler": _settings(held)}
        said = reason or f"Accepted what {held.server.name} says of it now."
        proposal = submit(Document("Tool", tool.name, spec), by=by, reason=said)
        _record(actions.REMOTE_TOOL_ACCEPTED, held, tool.name, proposal, by)
        if proposal is None:
            _link(held, tool)
    return Taken(tool.name, proposal is not None)


def keep_pinned(remote: RemoteTool, digest: str, *, by: Actor) -> str:
    """Go on serving what was imported, and ask no more until the server says another thing again; returns the tool's name."""
    with transaction.atomic():
        held = _held(remote, digest, may_have_problem=True)
        tool = _imported(held)
        _link(held, tool)
        _record(actions.REMOTE_TOOL_KEPT, held, tool.name, None, by)
    return tool.name


def _held(remote: RemoteTool, digest: str, *, may_have_problem: bool = False) -> RemoteTool:
    """The row, locked, as somebody has seen it."""
    held = RemoteTool.objects.select_for_update(of=("self",)).select_related("server").get(pk=remote.pk)
    if held.digest != digest:
        raise ValidationError(f"The server says another thing of {held.remote_name!r} meanwhile: look at it again.")
    if held.state == State.GONE:
        raise ValidationError(f"The server does not offer {held.remote_name!r} any more.")
    if held.problem and not may_have_problem:
        raise ValidationError(f"{held.remote_name!r} cannot be used: {held.problem}")
    return held


def _imported(held: RemoteTool) -> Tool:
    found = imports_of(held.server.name).get(held.remote_name)
    if found is None:
        raise ValidationError(f"{held.remote_name!r} is not imported.")
    return found.tool


def _link(held: RemoteTool, tool: Tool) -> None:
    """Note that the tool stands for it, and what is served of it is decided."""
    assert tool.current_version is not None
    held.tool, held.state, held.changed_at = tool, State.IMPORTED, None
    tool.refresh_from_db()
    held.pinned_digest = tool.current_version.handler["pinned"]
    held.save(update_fields=["tool", "state", "changed_at", "pinned_digest"])


def _settings(held: RemoteTool) -> dict[str, str]:
    return {"server": held.server.name, "tool": held.remote_name, "pinned": held.digest}


def _free_name(held: RemoteTool) -> str:
    """A name for it that nothing has; raises ValidationError when it is imported, or proposed to be."""
    imported = imports_of(held.server.name).get(held.remote_name)
    if imported is not None:
        raise ValidationError(f"{held.remote_name!r} is imported already, as {imported.tool.name}.")
    proposed = ChangeRequest.objects.filter(kind="Tool", status=ChangeRequest.Status.PENDING)
    for proposal in proposed:
        if _is_of(proposal.after, held):
            raise ValidationError(f"{held.remote_name!r} waits for a second person already, as {proposal.name}.")
    taken = {*Tool.objects.values_list("name", flat=True), *(proposal.name for proposal in proposed)}
    return next(name for name in _names(held) if name not in taken)


def _is_of(spec: Mapping[str, Any] | None, held: RemoteTool) -> bool:
    settings = (spec or {}).get("handler") or {}
    return (settings.get("server"), settings.get("tool")) == (held.server.name, held.remote_name)


def _names(held: RemoteTool) -> Iterator[str]:
    """`server_tool` in the registry's characters, then with numbers behind it."""
    plain = re.sub(r"[^a-zA-Z0-9_-]+", "_", f"{held.server.name}_{held.remote_name}")
    yield plain[:_MAX_TOOL_NAME]
    number = 2
    while True:
        end = f"_{number}"
        yield plain[: _MAX_TOOL_NAME - len(end)] + end
        number += 1


def _record(action: str, held: RemoteTool, name: str, proposal: ChangeRequest | None, by: Actor) -> None:
    details = {
        "server": held.server.name, "remote_name": held.remote_name, "tool": name, "digest": held.digest,
        "pinned_digest": held.pinned_digest, "proposed": proposal is not None,
    }  # fmt: skip
    audit.record(action, actor=by, target=Target("tools.remotetool", str(held.pk)), details=details)
