"""From a thread's messages to what the model is shown.

Messages are kept as AG-UI messages, as clients hold them; the model gets chat-completions messages. What the server holds is
what counts: of a client's messages only those that the server does not know yet are taken, and of those only what a client can
say: user messages and the results of calls to its own tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import orjson

from orchestration.failure_report import as_text, told_to_the_model
from orchestration.plans.in_messages import is_plan_step

CHARACTERS_PER_TOKEN = 4
MESSAGE_OVERHEAD_TOKENS = 4
MEDIA_TOKENS = 500

NO_RESULT = "The application gave no result for this call."
_AUDIO_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
_FUNCTION_NAME = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(frozen=True, slots=True)
class MergedHistory:
    """A client's view of a thread, held against the server's.

    `known`: the server's messages that precede the new ones; `new`: what the client adds; `client_agrees`: whether the client
    holds exactly these messages already; `awaits_answer`: whether there is something for the model to answer.
    """

    known: list[dict[str, Any]]
    new: list[dict[str, Any]]
    client_agrees: bool
    awaits_answer: bool


def merge(
    server: Sequence[dict[str, Any]], client: Sequence[dict[str, Any]], *, not_the_clients: Set[str] = frozenset()
) -> MergedHistory:
    """Take from the client's messages what the server does not know; never let it change what the server holds.

    `not_the_clients`: ids of calls whose results the client cannot give, though they have none yet.
    """
    server_ids = {message["id"] for message in server}
    new = _unique(
        message
        for message in client
        if message["id"] not in server_ids
        and message.get("toolCallId") not in not_the_clients
        and _may_say(message, server, first=not server)
    )
    known = list(server) if new else _up_to_last_question(server, client)
    agrees = _ids((*known, *new)) == _ids(client)
    return MergedHistory(known, new, agrees, _awaits_answer(known, new, client))


def _ids(messages: Iterable[dict[str, Any]]) -> tuple[list[str], set[str]]:
    """What both sides must hold alike: the order of what was said, and the set of tool results and reasoning.

    Not what subagents said: older clients are not shown it.
    """
    kept = [
        message
        for message in messages
        if message["role"] not in ("system", "developer", "activity") and "subagentRunId" not in message
    ]
    aside = {message["id"] for message in kept if message["role"] in ("tool", "reasoning")}
    return [message["id"] for message in kept if message["id"] not in aside], aside


def _may_say(message: dict[str, Any], server: Sequence[dict[str, Any]], *, first: bool) -> bool:
    role = message["role"]
    if role == "user":
        return True
    if role == "tool":
        return message["toolCallId"] in open_calls(server)
    # A thread that the server does not know may bring its earlier answers along, as text.
    said = role == "assistant" and bool(message.get("content"))
    return first and said and not message.get("toolCalls") and "subagentRunId" not in message


def _unique(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({message["id"]: message for message in messages}.values())


def _up_to_last_question(server: Sequence[dict[str, Any]], client: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without anything new: a client whose last message is a known question asks for another answer to it."""
    if not client or client[-1]["role"] != "user":
        return list(server)
    position = next((index for index, message in enumerate(server) if message["id"] == client[-1]["id"]), None)
    return list(server) if position is None else list(server[: position + 1])


def _awaits_answer(
    known: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], client: Sequence[dict[str, Any]]
) -> bool:
    if new:
        return bool(new[-1]["role"] != "assistant")
    return bool(client) and bool(known) and client[-1]["role"] == "user" and known[-1]["id"] == client[-1]["id"]


def open_calls(messages: Sequence[dict[str, Any]]) -> set[str]:
    """Ids of the tool calls that no message answers."""
    called = {call["id"] for message in messages for call in message.get("toolCalls", ())}
    return called - {message["toolCallId"] for message in messages if message["role"] == "tool"}


def estimate_tokens(message: dict[str, Any]) -> int:
    """A rough count: characters over four, and a flat sum for media.

    What subagents said and the calls of plans' steps are not shown to the model.
    """
    if "subagentRunId" in message or is_plan_step(message):
        return 0
    content = message.get("content")
    if isinstance(content, list):
        size = sum(
            len(part["text"]) if part.get("type") == "text" else MEDIA_TOKENS * CHARACTERS_PER_TOKEN for part in content
        )
    else:
        size = len(content) if isinstance(content, str) else 0
    size += sum(
        len(call["function"]["name"]) + len(call["function"]["arguments"]) for call in message.get("toolCalls", ())
    )
    return size // CHARACTERS_PER_TOKEN + MESSAGE_OVERHEAD_TOKENS


def trim(messages: Sequence[dict[str, Any]], token_budget: int) -> list[dict[str, Any]]:
    """The newest messages that fit the budget, beginning with a user message, so that no tool result loses its call.

    The last user message and what follows it always stay.
    """
    starts = [index for index, message in enumerate(messages) if message["role"] == "user"]
    if not starts:
        return list(messages)
    kept, used, end = starts[-1], 0, len(messages)
    for start in reversed(starts):
        used += sum(estimate_tokens(message) for message in messages[start:end])
        if used > token_budget and start != starts[-1]:
            break
        kept, end = start, start
    return list(messages[kept:])


def to_model(messages: Sequence[dict[str, Any]], *, system: str, with_media: bool = True) -> list[dict[str, Any]]:
    """AG-UI messages as chat-completions messages; calls without a result get one that says so."""
    result: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    answers = {message["toolCallId"]: message for message in messages if message["role"] == "tool"}
    for message in messages:
        role = message["role"]
        if role == "user":
            result.append({"role": "user", "content": _user_content(message.get("content", ""), with_media)})
        elif role == "assistant" and "subagentRunId" not in message and not is_plan_step(message):
            # The result of a delegation holds what the subagent said, that of a plan what its steps gave.
            result.extend(_assistant(message, answers))
    return result


def has_media(messages: Sequence[dict[str, Any]]) -> bool:
    """Whether a user message holds anything but text."""
    return any(
        isinstance(message.get("content"), list) and any(part.get("type") != "text" for part in message["content"])
        for message in messages
    )


def _assistant(message: dict[str, Any], answers: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    calls = message.get("toolCalls") or []
    content = message.get("content") or None
    if not calls:
        return [{"role": "assistant", "content": content}] if content else []
    wire = {"role": "assistant", "content": content, "tool_calls": [_wire_call(call) for call in calls]}
    return [wire, *(_tool_answer(call["id"], answers.get(call["id"])) for call in calls)]


def _wire_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    name = _FUNCTION_NAME.sub("_", function["name"])[:64]
    # Providers refuse arguments that are not JSON; the model has been told what was wrong with them.
    arguments = function["arguments"] if _is_json(function["arguments"]) else "{}"
    return {"id": call["id"], "type": "function", "function": {"name": name, "arguments": arguments}}


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _tool_answer(call_id: str, answer: dict[str, Any] | None) -> dict[str, Any]:
    if answer is None:
        return {"role": "tool", "tool_call_id": call_id, "content": NO_RESULT}
    report = told_to_the_model(answer)
    if report is not None:
        return {"role": "tool", "tool_call_id": call_id, "content": as_text(report)}
    content = answer.get("content", "")
    text = content if isinstance(content, str) else "\n".join(_text_of_part(part) for part in content)
    return {"role": "tool", "tool_call_id": call_id, "content": answer.get("error") or text}


def _text_of_part(part: dict[str, Any]) -> str:
    text = part.get("text")
    return text if isinstance(text, str) else f"[{part.get('type')}: cannot be shown to you]"


def _user_content(content: Any, with_media: bool) -> Any:
    if isinstance(content, str):
        return content
    parts = [_user_part(part, with_media) for part in content]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _user_part(part: dict[str, Any], with_media: bool) -> dict[str, Any]:
    """Never fails: a part that cannot be read must not keep its thread from going on."""
    kind, source = part.get("type"), part.get("source")
    if not isinstance(source, dict):
        source = {}
    mime_type = source.get("mimeType")
    if not isinstance(mime_type, str) or not mime_type:
        mime_type = "unknown type"
    if kind == "text":
        return {"type": "text", "text": _text_of_part(part)}
    value = source.get("value")
    if with_media and isinstance(value, str):
        if kind == "image" and source.get("type") in ("url", "data"):
            url = value if source["type"] == "url" else f"data:{mime_type};base64,{value}"
            return {"type": "image_url", "image_url": {"url": url}}
        if kind == "audio" and source.get("type") == "data" and mime_type in _AUDIO_FORMATS:
            return {"type": "input_audio", "input_audio": {"data": value, "format": _AUDIO_FORMATS[mime_type]}}
    return {"type": "text", "text": f"[The user attached something that cannot be shown to you: {kind}, {mime_type}.]"}
