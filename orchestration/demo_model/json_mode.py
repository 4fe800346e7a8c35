"""The demo model without tool calling: it reads tools, calls and results from the prompt and the messages, and answers in JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from orchestration.plans.definition import MAKE_PLAN
from orchestration.prompted_json.messages import RESULTS_TITLE
from orchestration.prompting import JSON_FORM_TITLE, JSON_TOOLS_TITLE

Message = dict[str, Any]


def is_asked_for(request: dict[str, Any]) -> bool:
    """Whether the prompt asks for JSON and no tools are offered."""
    return not request.get("tools") and JSON_FORM_TITLE in system_text(request)


def as_native(request: dict[str, Any]) -> dict[str, Any]:
    """The request as a model with tool calling would have been sent it."""
    tools = [_wire_tool(line) for line in lines_after(system_text(request), JSON_TOOLS_TITLE)]
    messages: list[Message] = []
    for message in request.get("messages") or []:
        messages += _native(message, messages)
    return {**request, "tools": [tool for tool in tools if tool], "messages": messages}


def as_json(text: str, reasoning: str, calls: Sequence[tuple[str, str]], *, is_value: bool) -> str:
    """An answer as one JSON object. `is_value`: the text is the JSON of a structured answer."""
    document: dict[str, Any] = {"thought": reasoning} if reasoning else {}
    actions = [{"tool": tool, "arguments": _parsed(arguments)} for tool, arguments in calls]
    if not actions:
        document["answer"] = _parsed(text) if is_value else text
    elif len(actions) > 1:
        document["actions"] = actions
    elif actions[0]["tool"] == MAKE_PLAN:
        document["plan"] = actions[0]["arguments"]
    else:
        document["action"] = actions[0]
    return orjson.dumps(document).decode()


def system_text(request: dict[str, Any]) -> str:
    """The system prompt of a request."""
    messages = request.get("messages") or [{}]
    content = messages[0].get("content") if messages[0].get("role") == "system" else ""
    return content if isinstance(content, str) else ""


def lines_after(text: str, title: str) -> list[str]:
    """The lines of the part of a prompt that has this title."""
    _, found, rest = text.partition(title + "\n")
    return rest.split("\n\n", 1)[0].splitlines() if found else []


def _wire_tool(line: str) -> dict[str, Any]:
    found = _parsed(line)
    if not isinstance(found, dict) or "tool" not in found:
        return {}
    return {"type": "function", "function": {"name": found["tool"], "parameters": found.get("arguments")}}


def _native(message: Message, before: list[Message]) -> list[Message]:
    content = message.get("content")
    if message.get("role") == "assistant" and isinstance(content, str):
        return [_said(content, number=len(before))]
    if message.get("role") == "user" and isinstance(content, str) and content.startswith(RESULTS_TITLE):
        return list(_results(content, before))
    return [message]


def _said(content: str, *, number: int) -> Message:
    document = _parsed(content)
    if not isinstance(document, dict):
        return {"role": "assistant", "content": content}
    actions = document.get("actions") or [document["action"]] * ("action" in document)
    if "plan" in document:
        actions = [{"tool": MAKE_PLAN, "arguments": document["plan"]}]
    if not actions:
        return {"role": "assistant", "content": document.get("answer")}
    calls = [
        {"id": f"{number}.{index}", "type": "function",
         "function": {"name": action["tool"], "arguments": orjson.dumps(action["arguments"]).decode()}}
        for index, action in enumerate(actions)
    ]  # fmt: skip
    return {"role": "assistant", "content": document.get("thought"), "tool_calls": calls}


def _results(content: str, before: list[Message]) -> Iterator[Message]:
    results, _, said = content.partition("\n\n")
    calls = before[-1].get("tool_calls") or [] if before else []
    for call, line in zip(calls, results.splitlines()[1:], strict=False):
        result = _parsed(line)["result"]
        text = result if isinstance(result, str) else orjson.dumps(result).decode()
        yield {"role": "tool", "tool_call_id": call["id"], "content": text}
    if said:
        yield {"role": "user", "content": said}


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
