"""What the demo model answers: a pure function from a request to the steps of a streamed answer.

Phrases that begin with `demo:` make it misbehave as real providers do; docs/models.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from orchestration.corrections import BEGINNING
from orchestration.demo_model import json_mode, planning
from orchestration.demo_model.intents import Wish, sample_value, wishes
from orchestration.memory import FORMER_TITLE, MEMORY_TITLE, SUMMARY_TITLE
from orchestration.prompting import OUTPUT_SCHEMA_TITLE

INTRODUCTION = "(I am the scripted demo model: set OPENAI_API_KEY or OPENAI_BASE_URL for a real one.) "
HELP = (
    "I can show how runs work: ask me about the weather in a city, a calculation such as 12*(3+4), to note: milk = two bottles, "
    "to show note milk, for a long answer, or to think aloud."
)
REFUSAL = "I'm sorry, but I can't help with that."
_LONG_SENTENCES = (
    "Every answer here is made of events that are committed before they are sent. ",
    "A run does not live in the request that began it, so it goes on when the reader leaves. ",
    "Whoever comes back with the number of the last event sees the rest, each event once. ",
    "Tools are called through one door, which checks, records and bounds every call. ",
    "And what was done can be read afterwards in the audit trail. ",
)
_COMMAND = re.compile(r"demo:\s*(?P<name>[a-z]+(?: [a-z]+)*)(?:\s+(?P<number>\d{1,6}))?", re.IGNORECASE)
_CALL = re.compile(r"demo:\s*call\s+(?P<tool>[A-Za-z0-9_-]{1,64})\s*(?P<arguments>\{.*\})?", re.IGNORECASE | re.DOTALL)
_SAY = re.compile(r"demo:\s*say\s+(?P<said>\{.*\})", re.IGNORECASE | re.DOTALL)
_STRUCTURED = re.compile(r"demo:\s*structured(?P<bad>[- ]bad)?\s*(?P<json>[{\[].*)?", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"-?[\d.,]+(?:e[+-]?\d+)?", re.IGNORECASE)
_OUR_TOOLS = ("get_weather_tool", "calculator_tool", "get_note_tool", "add_note_tool", "admin_debug_tool")
_SLOW_TOKENS = 20
_TOLD_CHARACTERS = 80
_READ_CHARACTERS = 2000  # of a message: the patterns take time that grows faster than the text


@dataclass(frozen=True, slots=True)
class Answer:
    """A scripted answer: text, reasoning, calls; or a way to fail.

    `status`: the HTTP status, with no stream unless it is 200. `fault`: `stall`, `rubbish`, `cut`, or nothing. `delay`: seconds before
    each token, None for the usual pace. `pieces`: the text as it is to be cut, instead of into words. `is_formed`: it is brought into
    the form that the prompt asks for.
    """

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    finish_reason: str = "stop"
    status: int = 200
    fault: str = ""
    delay: float | None = None
    pieces: tuple[str, ...] = ()
    is_formed: bool = True


def answer(request: dict[str, Any]) -> Answer:
    """Decide what to say to a chat-completions request, in the form that its prompt asks for."""
    if json_mode.system_text(request).startswith(SUMMARY_TITLE):
        return Answer(_summary(_last_user_text(request["messages"])))
    in_json = json_mode.is_asked_for(request)
    messages, mended = _without_corrections(request.get("messages") or [])
    asked = {**request, "messages": messages}
    found = _answer(json_mode.as_native(asked) if in_json else asked, mended=mended)
    if found.status != 200 or not found.is_formed or found.finish_reason == "content_filter":
        return found
    schema = json_mode.lines_after(json_mode.system_text(request), OUTPUT_SCHEMA_TITLE)
    if schema and not found.calls:
        found = replace(found, text=_as_value(found.text, schema[-1]), pieces=())
    if not in_json:
        return found
    text = json_mode.as_json(found.text, found.reasoning, found.calls, is_value=bool(schema))
    reason = "stop" if found.finish_reason == "tool_calls" else found.finish_reason
    return replace(found, text=text, pieces=(), reasoning="", calls=[], finish_reason=reason)


def _answer(request: dict[str, Any], *, mended: int) -> Answer:
    """What a model with tool calling says. `mended`: how often it was told that its answer had the wrong form."""
    messages = request["messages"]
    text = _last_user_text(messages)[:_READ_CHARACTERS]
    said = _SAY.search(text)
    if said:
        return _said(_object(said["said"]), messages)
    if planning.concerns(text):
        return _planned(text, messages, request)
    call = _CALL.search(text)
    if call:
        return _called(call["tool"], call["arguments"] or "{}", messages)
    structured = _STRUCTURED.search(text)
    if structured:
        return _structured(structured["json"] or text, wrong=bool(structured["bad"]) and not mended)
    command = _COMMAND.search(text)
    if command and command["name"].lower() == "bad json":
        return Answer("I corrected my answer.") if mended else Answer("I answer in prose.", is_formed=False)
    if command:
        return _commanded(command["name"].lower(), int(command["number"] or 0), messages, request)
    return _scripted(text, messages, _offered(request))


def _scripted(text: str, messages: list[dict[str, Any]], offered: dict[str, dict[str, Any]]) -> Answer:
    results = _results_of_this_turn(messages)
    if results:
        return Answer(
            _opening(messages) + " ".join(_told(name, arguments, content) for name, arguments, content in results)
        )
    lowered = text.lower()
    if any(word in lowered for word in ("refuse", "build a bomb", "hack into")):
        return Answer(REFUSAL)
    wanted = wishes(text, offered)
    if wanted:
        reasoning = _reasoning(wanted) if "think" in lowered or "reason" in lowered else ""
        return Answer(reasoning=reasoning, calls=[_call(wish) for wish in wanted], finish_reason="tool_calls")
    if "long answer" in lowered or "long story" in lowered:
        return Answer(_opening(messages) + "".join(_LONG_SENTENCES * 6))
    if "think" in lowered or "reason" in lowered:
        thought = "The user wants to see me think. I consider what I know. I decide to answer plainly."
        return Answer(_opening(messages) + "I thought about it, and here is my answer.", reasoning=thought)
    if "hello" in lowered or lowered.strip() in ("hi", "hey"):
        return Answer(_opening(messages) + "Hello! " + HELP)
    return Answer(_opening(messages) + f'You said: "{text[:200]}". ' + HELP)


def _commanded(name: str, number: int, messages: list[dict[str, Any]], request: dict[str, Any]) -> Answer:
    """The phrases of docs/models.md."""
    if name in ("stall", "rubbish", "cut"):
        return Answer("This answer will not be whole, because the demo was told so.", fault=name)
    if name == "error":
        return Answer(status=number if 400 <= number < 600 else 500)
    if name == "length":
        return Answer("This answer is cut off at", finish_reason="length")
    if name == "filter":
        return Answer("", finish_reason="content_filter")
    if name == "empty":
        return Answer("")
    if name == "slow":
        return Answer(" ".join(f"word{index}" for index in range(1, _SLOW_TOKENS + 1)), delay=(number or 200) / 1000)
    if name == "loop":
        return Answer(calls=[("calculator_tool", '{"expression": "1+1"}')], finish_reason="tool_calls")
    if name == "recall":
        return Answer(_recalled(messages))
    if name == "loop politely" and request.get("tool_choice") == "none":
        return Answer(_opening(messages) + "I was told to stop, so this is what I have: 1+1 = 2.")
    if name == "loop politely":
        return Answer(calls=[("calculator_tool", '{"expression": "1+1"}')], finish_reason="tool_calls")
    if name == "bad arguments":
        return _bad_arguments(messages)
    return _scripted("", messages, _offered(request))


def _called(tool: str, arguments: str, messages: list[dict[str, Any]]) -> Answer:
    """A call of any tool by its name, offered or not: a model that was talked into it would make it, too."""
    results = _results_of_this_turn(messages)
    if not results:
        return Answer(calls=[(tool, arguments)], finish_reason="tool_calls")
    return Answer(_opening(messages) + " ".join(_told(name, given, content) for name, given, content in results))


def _said(wanted: dict[str, Any], messages: list[dict[str, Any]]) -> Answer:
    """Exactly this: a text (`text`, or cut into `pieces`), `reasoning`, and `calls` of tools, `[name, arguments]` each.

    After the results of its calls it says `then`. `delay`: milliseconds before each piece.
    """
    if _results_of_this_turn(messages):
        return Answer(str(wanted.get("then") or "Done."))
    pieces = tuple(str(piece) for piece in wanted.get("pieces") or ())
    calls = [(str(name), orjson.dumps(arguments).decode()) for name, arguments in wanted.get("calls") or ()]
    return Answer(
        text="".join(pieces) or str(wanted.get("text") or ""),
        pieces=pieces,
        reasoning=str(wanted.get("reasoning") or ""),
        calls=calls,
        finish_reason="tool_calls" if calls else "stop",
        delay=wanted["delay"] / 1000 if isinstance(wanted.get("delay"), int | float) else None,
    )


def _summary(text: str) -> str:
    """What the user has said, in a row: nothing is lost as long as it fits."""
    former = next(iter(json_mode.lines_after(text, FORMER_TITLE)), "")
    said = [line.removeprefix("User: ")[:_TOLD_CHARACTERS] for line in text.splitlines() if line.startswith("User: ")]
    return " / ".join([former or "The user said", *said])


def _recalled(messages: list[dict[str, Any]]) -> str:
    """The summary of the thread's older part, as it was shown."""
    contents = (str(message.get("content")) for message in messages if message.get("role") == "user")
    found = next((content for content in contents if content.startswith(MEMORY_TITLE)), "")
    return found or "I was shown no summary."


def _structured(text: str, *, wrong: bool) -> Answer:
    return Answer("This is not of the form that was asked for.", is_formed=False) if wrong else Answer(text.strip())


def _planned(text: str, messages: list[dict[str, Any]], request: dict[str, Any]) -> Answer:
    """Plans, calls that are repeated although they fail, and calls that are repeated because that can help."""
    results = _results_of_this_turn(messages)
    call = planning.next_call(text, results)
    if call is not None and request.get("tool_choice") != "none":
        return Answer(calls=[call], finish_reason="tool_calls")
    told = [
        planning.told(content) if name == planning.MAKE_PLAN else _told(name, given, content)
        for name, given, content in results
    ]
    return Answer(_opening(messages) + " ".join(told or ["There is nothing to tell."]))


def _bad_arguments(messages: list[dict[str, Any]]) -> Answer:
    results = _results_of_this_turn(messages)
    if not results:
        return Answer(calls=[("calculator_tool", '{"expression": ')], finish_reason="tool_calls")
    if len(results) == 1:
        return Answer(calls=[("calculator_tool", '{"expression": "6*7"}')], finish_reason="tool_calls")
    return Answer(f"I corrected my call. The result is {results[-1][2]}.")


# --- reading the conversation


def _without_corrections(messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The conversation before the answers that had the wrong form, and how many there were."""
    corrections = sum(str(message.get("content")).startswith(BEGINNING) for message in messages)
    return messages[: len(messages) - 2 * corrections], corrections


def _as_value(text: str, schema: str) -> str:
    """The JSON of a structured answer: the text, where it is JSON, else a value that fits the schema."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return orjson.dumps(sample_value(orjson.loads(schema), text)).decode()
    return text


def _offered(request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in request.get("tools") or ()}


def _last_user_text(messages: list[dict[str, Any]]) -> str:
    content = next((message.get("content") for message in reversed(messages) if message.get("role") == "user"), "")
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def _opening(messages: list[dict[str, Any]]) -> str:
    """Said once in a thread."""
    answered = any(message.get("role") == "assistant" and message.get("content") for message in messages)
    return "" if answered else INTRODUCTION


def _results_of_this_turn(messages: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any], str]]:
    """(tool, arguments, content) of the tool results since the last user message, in order."""
    start = max((index for index, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    calls: dict[str, tuple[str, dict[str, Any]]] = {}
    results: list[tuple[str, dict[str, Any], str]] = []
    for message in messages[start + 1 :]:
        for call in message.get("tool_calls") or ():
            calls[call["id"]] = (call["function"]["name"], _object(call["function"]["arguments"]))
        if message.get("role") == "tool":
            name, arguments = calls.get(message["tool_call_id"], ("", {}))
            results.append((name, arguments, str(message.get("content") or "")))
    return results


def _object(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


# --- telling


def _told(name: str, arguments: dict[str, Any], content: str) -> str:
    """One tool result in words."""
    content = _failure_text(content)
    found = _object(content)
    if name == "get_weather_tool" and "temperature_c" in found:
        return f"In {found.get('location')} it is {found['temperature_c']} °C, {found.get('condition', 'as usual')}."
    if name == "calculator_tool" and _NUMBER.fullmatch(content):
        return f"{arguments.get('expression', 'That')} = {content}."
    if name == "get_note_tool" and "content" in found:
        return f"Your note {found.get('title')!r} says: {found['content']}"
    if name == "add_note_tool" and found.get("saved"):
        return f"I noted {found.get('title')!r}."
    if name == "admin_debug_tool" and found:
        return f"The service reports: {content[:600]}"
    if name in _OUR_TOOLS:
        return f"That did not work: {content[:300]}"
    return f"{name or 'The tool'} answered: {content[:300]}."


def _failure_text(content: str) -> str:
    """The text of a failure's report; anything else as it is."""
    error = _object(content).get("error")
    return str(error["message"]) if isinstance(error, dict) and isinstance(error.get("message"), str) else content


def _call(wish: Wish) -> tuple[str, str]:
    return wish.tool, orjson.dumps(wish.arguments).decode()


def _reasoning(wanted: list[Wish]) -> str:
    return "The user wants something that tools can do. I will call " + ", ".join(wish.tool for wish in wanted) + "."


def tokens(text: str) -> Iterator[str]:
    """A text in pieces such as a model streams: words with the white space before them."""
    yield from re.findall(r"\s*\S+|\s+$", text)
