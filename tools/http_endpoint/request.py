"""The request that a call becomes: arguments into path, query, headers and body; credentials to their places."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import orjson

from tools.calls import FailureKind, SideEffects
from tools.credentials import SHORTEST_HIDDEN, written_forms
from tools.http_endpoint.settings import (
    BodyForm,
    EndpointSettings,
    ListStyle,
    Parameter,
    Place,
    PlacedCredential,
    Placement,
    header_value_fits,
)
from tools.http_endpoint.url_template import UnfitPathError
from tools.invocation import ToolError, ToolInvocation

Pairs = list[tuple[str, str]]


class MisconfiguredError(Exception):
    """The tool's settings and its credentials do not fit together; the text is for an operator and holds no value."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request ready to be sent. `secrets`: every form in which it carries a credential, to be taken out of answers."""

    method: str
    url: httpx.URL = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(slots=True)
class _Parts:
    """A request while arguments are put into it."""

    path: dict[str, str] = field(default_factory=dict)
    query: Pairs = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, tuple[Parameter, Any]] = field(default_factory=dict)


def build_request(endpoint: EndpointSettings, arguments: Mapping[str, Any], invocation: ToolInvocation) -> Outgoing:
    """The request of one call.

    Raises ToolError when an argument cannot stand where it belongs, MisconfiguredError when the tool is not set up for the
    credentials that its settings name.
    """
    parts = _Parts()
    for argument, value in arguments.items():
        if argument != endpoint.body_argument:
            _place(parts, endpoint, argument, value)
    _check_complete(parts, endpoint)
    content, content_type = _body(endpoint, parts, arguments)
    headers = {"Accept": _accept(endpoint), **({"Content-Type": content_type} if content_type else {})}
    headers = _merged(headers, endpoint.headers)
    headers.update(parts.headers)
    if invocation.side_effects is SideEffects.KEYED:
        headers[endpoint.idempotency_header] = _key(invocation.idempotency_key)
    secrets: list[str] = []
    for placed in endpoint.credentials:
        value = _credential(placed, invocation)
        _place_credential(placed, value, headers, parts.query)
        secrets.extend(_forms(placed, value))
    try:
        url = endpoint.url.filled(parts.path, urlencode(parts.query, quote_via=quote))
    except UnfitPathError as error:
        raise ToolError(str(error), kind=FailureKind.BAD_ARGUMENTS) from error
    return Outgoing(endpoint.method, url, headers, content, tuple(sorted(set(secrets), key=len, reverse=True)))


# --- arguments


def _place(parts: _Parts, endpoint: EndpointSettings, argument: str, value: Any) -> None:
    parameter = endpoint.place_of(argument)
    if parameter is None:
        raise ToolError(
            f"There is no argument {argument!r}. Call the tool again without it.", kind=FailureKind.BAD_ARGUMENTS
        )
    if parameter.place is Place.BODY:
        parts.body[parameter.name] = (parameter, value)
    elif value is None:
        return  # outside a body there is no way to write null, so it is left out
    elif parameter.place is Place.PATH:
        parts.path[parameter.name] = _joined(parameter, value)
    elif parameter.place is Place.HEADER:
        parts.headers[parameter.name] = _header(argument, _joined(parameter, value))
    else:
        if parameter.name in endpoint.taken_query_names:
            raise ToolError(
                f"There is no argument {argument!r}. Call the tool again without it.", kind=FailureKind.BAD_ARGUMENTS
            )
        parts.query.extend(_pairs(parameter, value))


def _check_complete(parts: _Parts, endpoint: EndpointSettings) -> None:
    missing = [name for name in endpoint.url.names if name not in parts.path]
    if missing:
        raise ToolError(
            f"These arguments are needed, they are part of the address: {', '.join(missing)}.",
            kind=FailureKind.BAD_ARGUMENTS,
        )


def _header(argument: str, value: str) -> str:
    if not header_value_fits(value):
        raise ToolError(
            f"{argument!r} may only have ASCII characters on one line, without spaces at its ends.",
            kind=FailureKind.BAD_ARGUMENTS,
        )
    return value


def _pairs(parameter: Parameter, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, list) and parameter.lists is ListStyle.REPEAT:
        yield from ((parameter.name, _text(item)) for item in value)
    else:
        yield parameter.name, _joined(parameter, value)


def _joined(parameter: Parameter, value: Any) -> str:
    if isinstance(value, list) and parameter.lists is ListStyle.COMMA:
        return ",".join(_text(item) for item in value)
    return _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _body(endpoint: EndpointSettings, parts: _Parts, arguments: Mapping[str, Any]) -> tuple[bytes | None, str]:
    """The body and its content type."""
    form = endpoint.body is BodyForm.FORM
    if endpoint.body_argument:
        if endpoint.body_argument not in arguments:
            return None, ""
        value = arguments[endpoint.body_argument]
        if form and not isinstance(value, dict):
            raise ToolError(f"{endpoint.body_argument!r} must be an object.", kind=FailureKind.BAD_ARGUMENTS)
        fields = (
            {name: (Parameter(Place.BODY, name, ListStyle.REPEAT), item) for name, item in value.items()}
            if form
            else {}
        )
    else:
        fields = parts.body
        if not fields and endpoint.body is None:
            return None, ""
        value = {name: item for name, (_, item) in fields.items()}
    if not form:
        return orjson.dumps(value), "application/json"
    pairs = [pair for parameter, item in fields.values() if item is not None for pair in _pairs(parameter, item)]
    return urlencode(pairs).encode(), "application/x-www-form-urlencoded"


def _key(key: str) -> str:
    """The idempotency key as a header's value: callers choose a part of it."""
    return key if len(key) <= 255 and header_value_fits(key) else hashlib.sha256(key.encode()).hexdigest()


def _accept(endpoint: EndpointSettings) -> str:
    """What the answer may be; `application/*+json` cannot be asked for, only recognised."""
    return ", ".join(entry for entry in endpoint.content_types if "*+" not in entry) or "*/*"


def _merged(headers: dict[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """`headers` with the tool's own in their place, whatever their case."""
    named = {name.lower() for name in own}
    return {**{name: value for name, value in headers.items() if name.lower() not in named}, **own}


# --- credentials


def _credential(placed: PlacedCredential, invocation: ToolInvocation) -> str:
    if placed.credential not in invocation.credentials:
        raise MisconfiguredError(
            f"The settings of {invocation.tool} use the credential {placed.credential}, which its version does not require: "
            "add it to the required credentials."
        )
    return invocation.credentials[placed.credential]


def _place_credential(placed: PlacedCredential, value: str, headers: dict[str, str], query: Pairs) -> None:
    if placed.placement is Placement.QUERY:
        query.append((placed.parameter, value))
        return
    name = placed.parameter if placed.placement is Placement.HEADER else "Authorization"
    if placed.placement is Placement.BASIC:
        value = f"Basic {_base64(value)}"
    elif placed.placement is Placement.BEARER:
        value = f"Bearer {value}"
    if not header_value_fits(value):
        raise MisconfiguredError(f"The value of the credential {placed.credential} cannot stand in a header.")
    headers[name] = value


def _forms(placed: PlacedCredential, value: str) -> Iterator[str]:
    """How the value could come back: as it is, as it was sent, and its parts."""
    parts = [value]
    if placed.placement is Placement.BASIC:
        parts += [_base64(value), value.partition(":")[2]]
    yield from (form for part in parts if len(part) >= SHORTEST_HIDDEN for form in written_forms(part))


def _base64(value: str) -> str:
    return base64.b64encode(value.encode()).decode()
