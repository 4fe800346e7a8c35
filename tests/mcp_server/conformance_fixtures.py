"""What the official MCP conformance suite asks a server for beside its own tools: `test_*` tools, resources, prompts.

`MCP_CONFORMANCE_FIXTURES=tests.mcp_server.conformance_fixtures.add_to` has them added to each request's server. Names and texts
are those that the suite looks for. Calls of other tools go on to the service's own handlers. What needs an answer of the client
within a request is asked for all the same: under 2026-07-28 the client repeats the request with it, before that a stateless
server is refused by the SDK, and the suite says so.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CompleteRequestParams,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    GetPromptRequestParams,
    ListToolsResult,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    Tool,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Context = ServerRequestContext[Any, Any]
Fixture = Callable[[Context, CallToolRequestParams], Awaitable[Any]]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
PAUSE_SECONDS = 0.05

_STATE_KEY = secrets.token_bytes(32)
_HINTS = {"ttlMs": 0, "cacheScope": "private"}


def add_to(server: Server[Any]) -> None:
    """Give this server the fixtures."""
    listed, called = server.get_request_handler("tools/list"), server.get_request_handler("tools/call")
    schema_of = server.get_tool_input_schema
    assert listed and called and schema_of

    async def list_tools(context: Context, params: PaginatedRequestParams) -> Any:
        page: ListToolsResult = await listed.handler(context, params)
        return page if params.cursor else page.model_copy(update={"tools": [*page.tools, *FIXTURES]})

    async def call_tool(context: Context, params: CallToolRequestParams) -> Any:
        fixture = TOOLS.get(params.name)
        return await (fixture or called.handler)(context, params)

    server.get_tool_input_schema = lambda name: SCHEMAS[name] if name in SCHEMAS else schema_of(name)
    for method, params, handler in (
        ("tools/list", PaginatedRequestParams, list_tools),
        ("tools/call", CallToolRequestParams, call_tool),
        ("resources/list", PaginatedRequestParams, list_resources),
        ("resources/templates/list", PaginatedRequestParams, list_templates),
        ("resources/read", ReadResourceRequestParams, read_resource),
        ("resources/subscribe", SubscribeRequestParams, accept),
        ("resources/unsubscribe", UnsubscribeRequestParams, accept),
        ("prompts/list", PaginatedRequestParams, list_prompts),
        ("prompts/get", GetPromptRequestParams, get_prompt),
        ("completion/complete", CompleteRequestParams, complete),
        ("logging/setLevel", SetLevelRequestParams, accept),
    ):
        server.add_request_handler(method, params, completing(handler))


def completing(handler: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    """Say of plain results what the newest revision wants said of all."""

    async def handle(context: Context, params: Any) -> Any:
        result = await handler(context, params)
        is_plain = isinstance(result, dict) and context.protocol_version in MODERN_PROTOCOL_VERSIONS
        return {"resultType": "complete", **result} if is_plain else result

    return handle


# --- tools


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image() -> dict[str, Any]:
    return {"type": "image", "data": PNG, "mimeType": "image/png"}


def resource(uri: str, words: str, mime_type: str = "text/plain") -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": words}}


def giving(*content: dict[str, Any], is_error: bool = False) -> Fixture:
    async def fixture(context: Context, params: CallToolRequestParams) -> Any:
        return done(*content, is_error=is_error)

    return fixture


def done(*content: dict[str, Any], is_error: bool = False) -> dict[str, Any]:
    return {"content": list(content), "isError": is_error}


async def with_logging(context: Context, params: CallToolRequestParams) -> Any:
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await log(context, words)
        await asyncio.sleep(PAUSE_SECONDS)
    return done(text("logged"))


async def log(context: Context, words: str) -> None:
    """A log message on this request's stream, unless the revision has the client ask for it, which no fixture does."""
    if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return
    note = LoggingMessageNotification(params=LoggingMessageNotificationParams(level="info", data=words))
    await context.session.send_notification(note, related_request_id=context.request_id)


async def with_progress(context: Context, params: CallToolRequestParams) -> Any:
    for percent in (0, 50, 100):
        await context.session.report_progress(percent, 100)
        await asyncio.sleep(PAUSE_SECONDS)
    return done(text("done"))


async def sampling(context: Context, params: CallToolRequestParams) -> Any:
    words = (params.arguments or {})["prompt"]
    messages = [SamplingMessage(role="user", content=TextContent(type="text", text=words))]
    request = CreateMessageRequest(params=CreateMessageRequestParams(messages=messages, max_tokens=100))
    answer = await context.session.send_request(request, CreateMessageResult)
    return done(text(f"LLM response: {answer.content}"))


def eliciting(properties: dict[str, Any], message: str = "") -> Fixture:
    async def fixture(context: Context, params: CallToolRequestParams) -> Any:
        words = message or (params.arguments or {})["message"]
        schema = {"type": "object", "properties": properties}
        request = ElicitRequest(params=ElicitRequestFormParams(message=words, requested_schema=schema))
        answer = await context.session.send_request(request, ElicitResult)
        return done(text(f"action={answer.action}, content={json.dumps(answer.content)}"))

    return fixture


async def missing_capability(context: Context, params: CallToolRequestParams) -> Any:
    data = {"requiredCapabilities": {"sampling": {}}}
    raise MCPError(code=MISSING_REQUIRED_CLIENT_CAPABILITY, message="This tool needs sampling.", data=data)


# --- tools that ask the client first (2026-07-28): the whole state is in the request that is repeated


def elicitation(message: str, **types: str) -> dict[str, Any]:
    properties = {name: {"type": kind} for name, kind in types.items()}
    schema = {"type": "object", "properties": properties, "required": list(types)}
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema}}


def message(words: str, max_tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": text(words)}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": max_tokens}}


NAME = {"user_name": elicitation("What is your name?", name="string")}
CAPITAL = {"capital_question": message("What is the capital of France?", 100)}
ROOTS = {"client_roots": {"method": "roots/list", "params": {}}}
CONFIRM = {"confirm": elicitation("Please confirm", ok="boolean")}
SEVERAL = {**NAME, "greeting": message("Generate a greeting", 50), **ROOTS}
STEP_1 = {"step1": elicitation("Step 1: What is your name?", name="string")}
STEP_2 = {"step2": elicitation("Step 2: What is your favorite color?", color="string")}


def asking(requests: dict[str, Any], state: str = "") -> dict[str, Any]:
    asked = {"resultType": "input_required", "inputRequests": requests}
    return {**asked, "requestState": sealed(state)} if state else asked


def sealed(state: str) -> str:
    return f"{state}.{hmac.new(_STATE_KEY, state.encode(), hashlib.sha256).hexdigest()}"


def opened(given: str | None) -> str:
    """The state that was sealed, or nothing where none was given; raises MCPError for one of somebody else's making."""
    state, _, seal = (given or "").rpartition(".")
    if given and not hmac.compare_digest(sealed(state), f"{state}.{seal}"):
        raise MCPError(code=INVALID_PARAMS, message="The request state was changed.")
    return state


def answers(params: Any) -> dict[str, dict[str, Any]]:
    """What the client answered, by key, as plain JSON."""
    given = params.input_responses or {}
    return {key: value.model_dump(by_alias=True, mode="json") for key, value in given.items()}


def accepted(answer: dict[str, Any]) -> bool:
    """Whether an answer is of use: an elicitation can be declined."""
    return answer.get("action", "accept") == "accept" and ("action" not in answer or bool(answer.get("content")))


def first_asking(requests: dict[str, Any], state: str = "") -> Fixture:
    """Ask until there is a usable answer to everything; other keys are passed over."""

    async def fixture(context: Context, params: CallToolRequestParams) -> Any:
        known = opened(params.request_state)
        given = answers(params)
        if known != state or not all(key in given and accepted(given[key]) for key in requests):
            return asking(requests, state)
        found = {key: given[key] for key in requests}
        return done(text(f"{state} {json.dumps(found)}"))

    return fixture


async def multi_round(context: Context, params: CallToolRequestParams) -> Any:
    state, given = opened(params.request_state), answers(params)
    if state == "round-2" and "step2" in given:
        return done(text(json.dumps(given["step2"])))
    return asking(STEP_2, "round-2") if state == "round-1" and "step1" in given else asking(STEP_1, "round-1")


async def by_capability(context: Context, params: CallToolRequestParams) -> Any:
    capabilities = context.session.client_capabilities
    requests: dict[str, Any] = {}
    if capabilities and capabilities.sampling is not None:
        requests |= CAPITAL
    if capabilities and capabilities.elicitation is not None:
        requests |= NAME
    return asking(requests) if requests else done(text("nothing to ask"))


WORD = {"type": "string"}
ENUMS = {
    "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
    "titledSingle": {
        "type": "string",
        "oneOf": [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)],
    },
    "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
    "titledMulti": {
        "type": "array",
        "items": {"anyOf": [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]},
    },
}
DEFAULTS = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}

TOOLS: dict[str, Fixture] = {
    "test_simple_text": giving(text("This is a simple text response for testing.")),
    "test_image_content": giving(image()),
    "test_audio_content": giving({"type": "audio", "data": WAV, "mimeType": "audio/wav"}),
    "test_embedded_resource": giving(resource("test://embedded-resource", "This is an embedded resource content.")),
    "test_multiple_content_types": giving(
        text("Multiple content types test:"),
        image(),
        resource("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
    ),
    "test_error_handling": giving(text("This tool intentionally returns an error for testing"), is_error=True),
    "test_tool_with_logging": with_logging,
    "test_logging_tool": with_logging,
    "test_tool_with_progress": with_progress,
    "test_sampling": sampling,
    "test_elicitation": eliciting({"username": WORD, "email": WORD}),
    "test_elicitation_sep1034_defaults": eliciting(DEFAULTS, "Defaults"),
    "test_elicitation_sep1330_enums": eliciting(ENUMS, "Choices"),
    "test_missing_capability": missing_capability,
    "test_streaming_elicitation": first_asking(NAME),
    "test_input_required_result_elicitation": first_asking(NAME),
    "test_input_required_result_sampling": first_asking(CAPITAL),
    "test_input_required_result_list_roots": first_asking(ROOTS),
    "test_input_required_result_request_state": first_asking(CONFIRM, "state-ok"),
    "test_input_required_result_multiple_inputs": first_asking(SEVERAL, "several"),
    "test_input_required_result_tampered_state": first_asking(CONFIRM, "confirming"),
    "test_input_required_result_multi_round": multi_round,
    "test_input_required_result_capabilities": by_capability,
    "test_custom_headers": giving(text("The headers fit.")),
    "json_schema_2020_12_tool": giving(text("The schema was kept.")),
}

ANYTHING: dict[str, Any] = {"type": "object", "properties": {}}
SCHEMAS: dict[str, dict[str, Any]] = dict.fromkeys(TOOLS, ANYTHING) | {
    "test_custom_headers": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    },
    "json_schema_2020_12_tool": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"city": WORD}}},
        "properties": {
            "name": WORD, "address": {"$ref": "#/$defs/address"}, "contactMethod": {"enum": ["phone", "email"]},
            "phone": WORD, "email": WORD,
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
}  # fmt: skip
FIXTURES = [Tool(name=name, description=f"Fixture {name}.", input_schema=SCHEMAS[name]) for name in TOOLS]


# --- resources, prompts, and what is only acknowledged


async def accept(context: Context, params: Any) -> Any:
    return {}


async def list_resources(context: Context, params: PaginatedRequestParams) -> Any:
    found = [("static-text", "text/plain"), ("static-binary", "image/png"), ("watched-resource", "text/plain")]
    resources = [
        {"uri": f"test://{name}", "name": name, "description": f"Fixture {name}.", "mimeType": kind}
        for name, kind in found
    ]
    return {"resources": resources, **_HINTS}


async def list_templates(context: Context, params: PaginatedRequestParams) -> Any:
    template = {"uriTemplate": "test://template/{id}/data", "name": "template", "mimeType": "application/json"}
    return {"resourceTemplates": [template], **_HINTS}


async def read_resource(context: Context, params: ReadResourceRequestParams) -> Any:
    uri = params.uri
    if uri in ("test://static-text", "test://watched-resource"):
        words = "This is the content of the static text resource."
        content: dict[str, Any] = {"uri": uri, "mimeType": "text/plain", "text": words}
    elif uri == "test://static-binary":
        content = {"uri": uri, "mimeType": "image/png", "blob": PNG}
    elif found := re.fullmatch(r"test://template/([^/]+)/data", uri):
        data = {"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"}
        content = {"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}
    else:
        raise MCPError(code=INVALID_PARAMS, message="Resource not found", data={"uri": uri})
    return {"contents": [content], **_HINTS}


def prompt(name: str, *arguments: str) -> dict[str, Any]:
    wanted = [{"name": argument, "description": "A test argument.", "required": True} for argument in arguments]
    return {"name": name, "description": f"Fixture {name}.", "arguments": wanted}


async def list_prompts(context: Context, params: PaginatedRequestParams) -> Any:
    prompts = [
        prompt("test_simple_prompt"),
        prompt("test_prompt_with_arguments", "arg1", "arg2"),
        prompt("test_prompt_with_embedded_resource", "resourceUri"),
        prompt("test_prompt_with_image"),
        prompt("test_input_required_result_prompt"),
    ]
    return {"prompts": prompts, **_HINTS}


async def get_prompt(context: Context, params: GetPromptRequestParams) -> Any:
    given = params.arguments or {}
    if params.name == "test_simple_prompt":
        return said(text("This is a simple prompt for testing."))
    if params.name == "test_prompt_with_arguments":
        return said(text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"))
    if params.name == "test_prompt_with_embedded_resource":
        embedded = resource(given["resourceUri"], "Embedded resource content for testing.")
        return said(embedded, text("Please process the embedded resource above."))
    if params.name == "test_prompt_with_image":
        return said(image(), text("Please analyze the image above."))
    if params.name == "test_input_required_result_prompt":
        found = answers(params).get("user_context")
        question = {"user_context": elicitation("What context should the prompt use?", context="string")}
        return said(text(json.dumps(found))) if found else asking(question)
    raise MCPError(code=INVALID_PARAMS, message="Unknown prompt")


def said(*content: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": part} for part in content]}


async def complete(context: Context, params: CompleteRequestParams) -> Any:
    values = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    return {"completion": {"values": values, "total": len(values), "hasMore": False}}
