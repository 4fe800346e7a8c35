"""What comes back: checked for its type, read within its limit, taken apart by JSON Pointer, and rid of credentials."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import httpx
import orjson

from agentbackend.foundation.outbound import OutboundError, OutboundRefusedError, OutboundTooLargeError, read_bounded
from tools import json_pointer
from tools.credentials import REDACTED
from tools.http_endpoint.settings import EndpointSettings, ResponseMap

MAX_DEPTH: Final = 100

_SHOWN_HEADERS = ("content-type", "content-length", "etag", "last-modified", "location")
_WITHOUT_BODY = (204, 205, 304)
_SAYING = ("detail", "error_description", "message", "error", "errors", "title", "msg", "reason", "description")


class UnusableAnswerError(Exception):
    """The service answered, but not with what the tool reads. `message` is for the model, `note` for the log."""

    def __init__(self, message: str, note: str = "") -> None:
        self.message = message
        self.note = note
        super().__init__(message)


async def read_answer(response: httpx.Response, endpoint: EndpointSettings) -> Any:
    """The value that the tool returns; raises UnusableAnswerError, and what reading raises."""
    if endpoint.method == "HEAD":
        shown = {name: response.headers[name] for name in _SHOWN_HEADERS if name in response.headers}
        return {"status": response.status_code, "headers": shown}
    if response.status_code in _WITHOUT_BODY:
        return {"status": response.status_code}
    content_type = _content_type(response)
    if not _is_accepted(content_type, endpoint.content_types):
        if not content_type and response.headers.get("content-length") == "0":
            return {"status": response.status_code}
        raise UnusableAnswerError(
            f"It answered with content that this tool cannot read ({content_type or 'of no type'}).",
            f"content type {content_type!r}; accepted are {', '.join(endpoint.content_types)}",
        )
    body = await _read(response, endpoint.max_response_bytes)
    if not body:
        return {"status": response.status_code}
    if _is_json(content_type):
        return _mapped(_parsed(body), endpoint.response)
    if not endpoint.response.is_whole:
        raise UnusableAnswerError("It did not answer with JSON.", f"content type {content_type!r}")
    return _text(body, response)


async def read_excerpt(response: httpx.Response, secrets: Iterable[str], limit: int = 16 * 1024) -> str:
    """What an error answer says of the problem, in one short line without secrets; empty when it says nothing that can be read.

    Secrets are taken out before the line is cut, else the beginning of one could stay at its end.
    """
    content_type = _content_type(response)
    if not (_is_json(content_type) or content_type == "text/plain"):
        return ""
    try:
        body = await read_bounded(response, limit)
    except (OutboundError, httpx.HTTPError):
        return ""
    try:
        said = _said(orjson.loads(body)) if _is_json(content_type) else body.decode(errors="replace")
    except orjson.JSONDecodeError:
        return ""
    return _cut(without_secrets(_one_line(without_secrets(said, secrets)), secrets))


def without_secrets(value: Any, secrets: Iterable[str], depth: int = 0) -> Any:
    """The value with every secret replaced in all its texts; raises UnusableAnswerError when it is nested too deeply."""
    if depth > MAX_DEPTH:
        raise UnusableAnswerError("Its answer is nested too deeply to be read.")
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, REDACTED)
        return value
    if isinstance(value, list):
        return [without_secrets(item, secrets, depth + 1) for item in value]
    if isinstance(value, dict):
        return {
            without_secrets(name, secrets): without_secrets(item, secrets, depth + 1) for name, item in value.items()
        }
    return value


# --- the body


async def _read(response: httpx.Response, limit: int) -> bytes:
    try:
        return await read_bounded(response, limit)
    except OutboundTooLargeError as error:
        message = f"Its answer is longer than the {limit} bytes that this tool reads. Ask for less."
        raise UnusableAnswerError(message, f"more than {limit} bytes") from error
    except OutboundRefusedError as error:
        raise UnusableAnswerError("Its answer cannot be decompressed.", str(error)) from error


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise UnusableAnswerError("Its answer is said to be JSON and is not.", str(error)) from error


def _text(body: bytes, response: httpx.Response) -> str:
    if b"\0" in body:
        raise UnusableAnswerError("It answered with binary data.", "NUL in an answer that is said to be text")
    try:
        return body.decode(response.charset_encoding or "utf-8", "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


def _mapped(document: Any, wanted: ResponseMap) -> Any:
    try:
        value = json_pointer.find(document, wanted.pointer)
    except json_pointer.NothingThereError as error:
        note = f"nothing at {json_pointer.written(wanted.pointer)!r}"
        raise UnusableAnswerError("Its answer does not have what this tool reads from it.", note) from error
    if not wanted.fields:
        return value
    found = {}
    for name, tokens in wanted.fields:
        try:
            found[name] = json_pointer.find(value, tokens)
        except json_pointer.NothingThereError:
            continue  # services leave out what they do not know; the output schema says what must be there
    if not found:
        raise UnusableAnswerError(
            "Its answer does not have what this tool reads from it.", "none of the fields is there"
        )
    return found


# --- its type


def _content_type(response: httpx.Response) -> str:
    """`type/subtype` in small letters; empty when there is none."""
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _is_json(content_type: str) -> bool:
    return content_type in ("application/json", "text/json") or content_type.endswith("+json")


def _is_accepted(content_type: str, accepted: Iterable[str]) -> bool:
    """`*` in a pattern stands for anything."""
    patterns = (re.escape(entry).replace(r"\*", ".*") for entry in accepted)
    return any(re.fullmatch(pattern, content_type or "/") for pattern in patterns)


# --- what an error says


def _said(problem: Any, levels: int = 4) -> str:
    """The text of a problem detail (RFC 9457), or of the forms that are common beside it."""
    if isinstance(problem, str):
        return problem
    if not levels or not isinstance(problem, dict | list):
        return ""
    parts = problem[:1] if isinstance(problem, list) else [problem.get(name) for name in _SAYING]
    return next((said for part in parts if (said := _said(part, levels - 1))), "")


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _cut(line: str, limit: int = 300) -> str:
    return line if len(line) <= limit else line[:limit] + "..."
