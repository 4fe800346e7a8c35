"""What a client asks for: RunAgentInput of AG-UI, read and checked; unusable input is refused with the field's name.

Source: AG-UI 1.0 `RunAgentInput`; clients before 1.0 send no `protocolVersion` and may send the legacy `binary` part.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import orjson

from agentbackend.foundation.identifiers import is_public_id, uuid7
from agentbackend.foundation.problems import Problem

MAX_MESSAGES = 2000
MAX_TOOLS = 128
MAX_TOOL_NAME = 64
MAX_DEPTH = 64

Role = Literal["developer", "system", "user", "assistant", "tool", "activity", "reasoning"]


class _FunctionCall(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct):
    id: str
    function: _FunctionCall
    type: str = "function"


class _Message(msgspec.Struct, rename="camel"):
    id: str
    role: Role
    content: str | list[dict[str, Any]] | dict[str, Any] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    subagent_run_id: str | None = None
    error: str | None = None


class FrontendTool(msgspec.Struct):
    """A tool that the client executes: offered to the model, never called here."""

    name: str
    description: str = ""
    parameters: Any = None


class ContextItem(msgspec.Struct):
    """Something that the application wants the model to know."""

    description: str
    value: str


class ResumeEntry(msgspec.Struct, rename="camel"):
    """The answer to an interrupt."""

    interrupt_id: str
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class _RunAgentInput(msgspec.Struct, rename="camel"):
    thread_id: str
    run_id: str
    messages: list[_Message]
    protocol_version: str | None = None
    parent_run_id: str | None = None
    state: Any = None
    tools: list[FrontendTool] | None = None
    context: list[ContextItem] | None = None
    forwarded_props: Any = None
    resume: list[ResumeEntry] | None = None


@dataclass(frozen=True, slots=True)
class RunInput:
    """A checked wish for a run. `messages` are AG-UI messages as the client holds them, in order, as JSON objects."""

    thread_id: str
    run_id: str
    messages: list[dict[str, Any]]
    protocol_version: str | None = None
    parent_run_id: str = ""
    state: Any = None
    tools: list[FrontendTool] = field(default_factory=list)
    context: list[ContextItem] = field(default_factory=list)
    forwarded_props: Any = None
    resume: list[ResumeEntry] = field(default_factory=list)


_decoder = msgspec.json.Decoder(_RunAgentInput)
_SMALLEST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**64 - 1
_MEDIA = frozenset({"image", "audio", "video", "document"})
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_AT = re.compile(r" - at `\$\.?(.*)`$")


def parse_run_input(body: bytes) -> RunInput:
    """Read a request body; raises Problem (`invalid_json`, `invalid_input`) naming the field."""
    _refuse_unstorable_text(body)
    try:
        raw = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except RecursionError as error:
        raise Problem("invalid_input", f"At most {MAX_DEPTH} levels of nesting are taken.", field="(body)") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem("invalid_json", "The body is not valid JSON.", field="(body)") from error
    _require_public_id(raw.thread_id, "threadId")
    _require_public_id(raw.run_id, "runId")
    if raw.parent_run_id is not None:
        _require_public_id(raw.parent_run_id, "parentRunId")
    for name, value in (("state", raw.state), ("forwardedProps", raw.forwarded_props)):
        require_plain(value, name)
    for index, entry in enumerate(raw.resume or ()):
        require_plain(entry.payload, f"resume[{index}].payload")
    if len(raw.messages) > MAX_MESSAGES:
        raise Problem("invalid_input", f"At most {MAX_MESSAGES} messages are taken.", field="messages")
    return RunInput(
        thread_id=raw.thread_id,
        run_id=raw.run_id,
        messages=[_message(message, f"messages[{index}]") for index, message in enumerate(raw.messages)],
        protocol_version=raw.protocol_version,
        parent_run_id=raw.parent_run_id or "",
        state=raw.state,
        tools=_frontend_tools(raw.tools or []),
        context=raw.context or [],
        forwarded_props=raw.forwarded_props,
        resume=raw.resume or [],
    )


def single_message_input(thread_id: str, text: str) -> RunInput:
    """The input of the one-line GET: a new user message in a thread."""
    message = {"id": str(uuid7()), "role": "user", "content": text}
    return RunInput(thread_id=thread_id, run_id=str(uuid7()), messages=[message])


def require_storable(text: str, where: str) -> None:
    """Refuse text that no part of the service can hold (NUL, lone surrogates)."""
    if "\x00" in text:
        raise Problem("invalid_input", "NUL characters are not accepted.", field=where)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Problem("invalid_input", "Lone surrogates are not accepted.", field=where)


def _refuse_unstorable_text(body: bytes) -> None:
    """NUL and lone surrogates can only come as escapes: look closer only when one is there."""
    lowered = body.lower() if b"\\u" in body else b""
    if b"\\u0000" not in lowered and b"\\ud" not in lowered:
        return
    try:
        document = json.loads(body)  # keeps lone surrogates, so that their field can be named
    except (ValueError, RecursionError):
        return  # not usable JSON: the decoder says so
    _walk(document, "")


def _walk(value: Any, where: str) -> None:
    if isinstance(value, str):
        require_storable(value, where)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _walk(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            require_storable(key, where or "(key)")
            _walk(item, f"{where}.{key}" if where else key)


def _invalid(message: str) -> Problem:
    found = _AT.search(message)
    where = found.group(1) if found else ""
    detail = _AT.sub("", message)
    missing = re.search(r"missing required field `(\w+)`", detail)
    if missing:
        where = f"{where}.{missing.group(1)}" if where else missing.group(1)
    return Problem("invalid_input", detail + ".", field=where or "(body)")


def _require_public_id(value: str, where: str) -> None:
    if not is_public_id(value):
        raise Problem("invalid_input", "Expected 1 to 128 visible ASCII characters.", field=where)


def require_plain(value: Any, root: str, path: str = "", depth: int = 0) -> None:
    """Refuse what JSON libraries and PostgreSQL treat differently: deep nesting, and whole numbers of more than 64 bits."""
    if depth > MAX_DEPTH:
        raise Problem("invalid_input", f"At most {MAX_DEPTH} levels of nesting are taken.", field=root)
    if isinstance(value, int) and not _SMALLEST_INTEGER <= value <= _LARGEST_INTEGER:
        raise Problem("invalid_input", "Whole numbers of more than 64 bits are not taken.", field=root + path)
    if isinstance(value, dict):
        for key, item in value.items():
            require_plain(item, root, f"{path}.{key}", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            require_plain(item, root, f"{path}[{index}]", depth + 1)


def _frontend_tools(tools: list[FrontendTool]) -> list[FrontendTool]:
    if len(tools) > MAX_TOOLS:
        raise Problem("invalid_input", f"At most {MAX_TOOLS} tools are taken.", field="tools")
    for index, tool in enumerate(tools):
        if not _TOOL_NAME.fullmatch(tool.name):
            raise Problem(
                "invalid_input",
                f"A tool's name has 1 to {MAX_TOOL_NAME} letters, digits, underscores and hyphens: models take no other.",
                field=f"tools[{index}].name",
            )
        if any(other.name == tool.name for other in tools[:index]):
            raise Problem("invalid_input", "Another tool has this name.", field=f"tools[{index}].name")
        if tool.parameters is not None and not isinstance(tool.parameters, dict):
            raise Problem("invalid_input", "Expected a JSON Schema object.", field=f"tools[{index}].parameters")
        require_plain(tool.parameters, f"tools[{index}].parameters")
    return tools


def _message(message: _Message, where: str) -> dict[str, Any]:
    if not message.id or len(message.id) > 200:
        raise Problem("invalid_input", "Expected 1 to 200 characters.", field=f"{where}.id")
    result: dict[str, Any] = {"id": message.id, "role": message.role}
    if message.content is not None:
        result["content"] = _content(message, where)
    if message.role == "user" and message.content is None:
        raise Problem("invalid_input", "A user message needs content.", field=f"{where}.content")
    if message.role == "tool":
        if not message.tool_call_id:
            raise Problem("invalid_input", "A tool message needs the id of its call.", field=f"{where}.toolCallId")
        result["toolCallId"] = message.tool_call_id
        result.setdefault("content", "")
    if message.error is not None:
        result["error"] = message.error
    if message.subagent_run_id is not None:
        result["subagentRunId"] = message.subagent_run_id
    if message.tool_calls:
        result["toolCalls"] = msgspec.to_builtins(message.tool_calls)
    return result


def _content(message: _Message, where: str) -> Any:
    content = message.content
    if isinstance(content, dict):
        if message.role != "activity":
            raise Problem("invalid_input", "Expected text or a list of parts.", field=f"{where}.content")
        require_plain(content, f"{where}.content")
        return content
    if isinstance(content, list):
        require_plain(content, f"{where}.content")
        return [_part(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
    return content


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    """A content part; the legacy `binary` part becomes the part of its media type."""
    kind = part.get("type")
    if not isinstance(kind, str):
        raise Problem("invalid_input", "A content part needs a type.", field=f"{where}.type")
    if kind == "binary":
        return _from_binary(part)
    text, source = part.get("text"), part.get("source")
    if not isinstance(text, str) and (kind == "text" or text is not None):
        raise Problem("invalid_input", "Expected text.", field=f"{where}.text")
    if source is not None or kind in _MEDIA:
        _check_source(source, f"{where}.source")
    return part


def _check_source(source: Any, where: str) -> None:
    """A media part's source: `type`, `value` and what else it says of itself are texts."""
    if not isinstance(source, dict):
        raise Problem("invalid_input", "Expected a source.", field=where)
    for name in ("type", "value", "mimeType", "provider"):
        if name in source and source[name] is not None and not isinstance(source[name], str):
            raise Problem("invalid_input", "Expected text.", field=f"{where}.{name}")


def _from_binary(part: dict[str, Any]) -> dict[str, Any]:
    mime_type = str(part.get("mimeType") or "application/octet-stream")
    family = mime_type.split("/", 1)[0]
    kind = family if family in {"image", "audio", "video"} else "document"
    if isinstance(part.get("data"), str):
        source: dict[str, Any] = {"type": "data", "value": part["data"], "mimeType": mime_type}
    elif isinstance(part.get("url"), str):
        source = {"type": "url", "value": part["url"], "mimeType": mime_type}
    else:
        source = {"type": "file", "value": str(part.get("id") or ""), "mimeType": mime_type}
    return {"type": kind, "source": source}


def stored_input(run_input: RunInput, messages: list[dict[str, Any]], **around: Any) -> str:
    """The run row's `input`: what a successor needs to go on, as JSON. `around`: what else it needs, by name."""
    document = {
        "messages": messages,
        "tools": msgspec.to_builtins(run_input.tools),
        "context": msgspec.to_builtins(run_input.context),
        "state": run_input.state,
        "forwardedProps": run_input.forwarded_props,
        "protocolVersion": run_input.protocol_version,
        "parentRunId": run_input.parent_run_id,
        **around,
    }
    return orjson.dumps(document).decode()


def restored_input(document: dict[str, Any], *, thread_id: str, run_id: str) -> RunInput:
    """The inverse of `stored_input`: the input as the first process had it, its messages the new ones only."""
    return RunInput(
        thread_id=thread_id,
        run_id=run_id,
        messages=document["messages"],
        protocol_version=document["protocolVersion"],
        parent_run_id=document.get("parentRunId", ""),
        state=document["state"],
        tools=msgspec.convert(document["tools"], list[FrontendTool]),
        context=msgspec.convert(document["context"], list[ContextItem]),
        forwarded_props=document["forwardedProps"],
    )
