"""The settings of an `http_endpoint` tool: read strictly, and every problem named with its field (docs/http_tools.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import orjson

from audit.redaction import is_secret_name
from tools import json_pointer
from tools.credentials import name_problem
from tools.http_endpoint.url_template import InvalidTemplateError, UrlTemplate

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
WITHOUT_BODY: Final = ("GET", "HEAD")
DEFAULT_CONTENT_TYPES: Final = ("application/json", "application/*+json", "text/*")
DEFAULT_RESPONSE_BYTES: Final = 1024 * 1024
MAX_RESPONSE_BYTES: Final = 8 * 1024 * 1024
DEFAULT_IDEMPOTENCY_HEADER: Final = "Idempotency-Key"

_FIELDS = (
    "method", "url", "parameters", "body", "body_argument", "headers", "credentials", "response", "content_types",
    "success_statuses", "max_response_bytes", "follow_redirects", "idempotency_header",
)  # fmt: skip
_MAX_ENTRIES = 100
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")
_CONTENT_TYPE = re.compile(r"(\*/\*|[a-z0-9.+-]+/(\*|\*\+[a-z0-9.-]+|[a-z0-9.+-]+))")
_STATUS_CLASS = re.compile(r"([2-5])xx")
# The connection's own (RFC 9110, 7.6.1), what the client sets, and what carries credentials.
_OWN_HEADERS = frozenset(
    {
        "host", "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
        "content-length", "accept-encoding", "expect",
    }
)  # fmt: skip
_CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "proxy-authenticate", "cookie", "set-cookie"})


class InvalidSettingsError(ValueError):
    """The settings cannot be used; the text names each field and is for the person who wrote them."""


class Place(StrEnum):
    """Where an argument goes."""

    PATH = "path"
    QUERY = "query"
    HEADER = "header"
    BODY = "body"


class ListStyle(StrEnum):
    """How a list is written outside a JSON body: the parameter again for each item, joined with commas, or as JSON."""

    REPEAT = "repeat"
    COMMA = "comma"
    JSON = "json"


class BodyForm(StrEnum):
    """How a body is written."""

    JSON = "json"
    FORM = "form"


class Placement(StrEnum):
    """Where a credential goes."""

    HEADER = "header"
    BEARER = "bearer"
    BASIC = "basic"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Parameter:
    """Where one argument goes, and under which name."""

    place: Place
    name: str
    lists: ListStyle


@dataclass(frozen=True, slots=True)
class PlacedCredential:
    """Which credential goes where; `parameter` names the header or the query's parameter."""

    credential: str
    placement: Placement
    parameter: str = ""


@dataclass(frozen=True, slots=True)
class ResponseMap:
    """What is taken from a JSON answer: the value at `pointer`, and of that, when there are `fields`, an object of these."""

    pointer: tuple[str, ...] = ()
    fields: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether the answer is taken as it is."""
        return not self.pointer and not self.fields


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Settings that were read."""

    method: str
    url: UrlTemplate
    parameters: Mapping[str, Parameter]
    body: BodyForm | None
    body_argument: str
    headers: Mapping[str, str]
    credentials: tuple[PlacedCredential, ...]
    response: ResponseMap
    content_types: tuple[str, ...]
    success_statuses: frozenset[int]
    max_response_bytes: int
    follow_redirects: bool
    idempotency_header: str

    @property
    def taken_query_names(self) -> frozenset[str]:
        """Names in the query that no argument may use: the template's own, and those of credentials."""
        placed = (item.parameter for item in self.credentials if item.placement is Placement.QUERY)
        return self.url.query_names | frozenset(placed)

    def place_of(self, argument: str) -> Parameter | None:
        """Where an argument goes that the settings may not name; None when what it would be sent as is another argument's.

        Else whoever calls could say twice what rules and schema look at once.
        """
        named = self.parameters.get(argument)
        if named is not None:
            return named
        if any(argument.lower() == parameter.name.lower() for parameter in self.parameters.values()):
            return None
        if argument in self.url.names:
            return Parameter(Place.PATH, argument, ListStyle.COMMA)
        if self.method in (*WITHOUT_BODY, "DELETE") or self.body_argument:
            return Parameter(Place.QUERY, argument, ListStyle.REPEAT)
        return Parameter(Place.BODY, argument, ListStyle.REPEAT)


def read_settings(settings: Mapping[str, Any]) -> EndpointSettings:
    """The settings, ready to be used; raises InvalidSettingsError. What was read once is remembered."""
    try:
        return _read_once(orjson.dumps(settings))
    except TypeError as error:
        raise InvalidSettingsError(f"The settings cannot be written as JSON: {error}.") from error


@lru_cache(maxsize=512)
def _read_once(written: bytes) -> EndpointSettings:
    reader = _Reader(orjson.loads(written))
    found = reader.read()
    if found is None:
        raise InvalidSettingsError(" ".join(reader.problems))
    return found


def header_value_fits(value: str) -> bool:
    """Whether a text can be a header's value: visible ASCII, with spaces inside, and no line break."""
    return len(value) <= 8192 and _HEADER_VALUE.fullmatch(value) is not None


class _Reader:
    """One reading: goes through all fields and collects what is wrong with each."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self.problems: list[str] = []

    def read(self) -> EndpointSettings | None:
        """The settings; None when there are problems."""
        for name in self._settings:
            if name not in _FIELDS:
                self._problem(name[:64], f"there is no such setting; there are {', '.join(_FIELDS)}")
        url, method = self._url(), self._method()
        if url is None or method is None:
            return None
        body_argument = self._text("body_argument")
        found = EndpointSettings(
            method=method,
            url=url,
            parameters=self._parameters(url, method),
            body=self._body(method),
            body_argument=body_argument,
            headers=self._headers(),
            credentials=tuple(self._credentials()),
            response=self._response(),
            content_types=self._content_types(),
            success_statuses=self._statuses(),
            max_response_bytes=self._max_bytes(),
            follow_redirects=self._flag("follow_redirects"),
            idempotency_header=self._idempotency_header(),
        )
        self._check_path(found)
        self._check_body(found)
        self._check_names(found)
        return None if self.problems else found

    def _problem(self, field: str, text: str) -> None:
        self.problems.append(f"{field}: {text}.")

    # --- single fields

    def _text(self, field: str, default: str = "") -> str:
        value = self._settings.get(field, default)
        if not isinstance(value, str):
            self._problem(field, "expected a text")
            return default
        return value

    def _flag(self, field: str) -> bool:
        value = self._settings.get(field, False)
        if not isinstance(value, bool):
            self._problem(field, "expected true or false")
        return value is True

    def _method(self) -> str | None:
        method = self._settings.get("method", "GET")
        if method not in METHODS:
            self._problem("method", f"expected one of {', '.join(METHODS)}")
            return None
        return str(method)

    def _url(self) -> UrlTemplate | None:
        text = self._settings.get("url")
        if not isinstance(text, str) or not text:
            self._problem("url", "this setting is required: the address of the endpoint")
            return None
        try:
            url = UrlTemplate.parse(text)
        except InvalidTemplateError as error:
            self._problem("url", str(error))
            return None
        for name in filter(is_secret_name, sorted(url.query_names)):
            self._problem(
                "url", f"{name[:64]!r} is the name of a secret, and settings are shown: use the setting credentials"
            )
        return url

    def _body(self, method: str) -> BodyForm | None:
        value = self._settings.get("body")
        if value is None:
            return None
        if value not in tuple(BodyForm):
            self._problem("body", f"expected one of {', '.join(BodyForm)}")
            return None
        if method in WITHOUT_BODY:
            self._problem("body", f"a {method} request has none")
        return BodyForm(value)

    def _max_bytes(self) -> int:
        value = self._settings.get("max_response_bytes", DEFAULT_RESPONSE_BYTES)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RESPONSE_BYTES:
            self._problem("max_response_bytes", f"expected a whole number from 1 to {MAX_RESPONSE_BYTES}")
            return DEFAULT_RESPONSE_BYTES
        return value

    def _idempotency_header(self) -> str:
        name = self._text("idempotency_header", DEFAULT_IDEMPOTENCY_HEADER)
        self._check_header_name("idempotency_header", name)
        return name

    def _content_types(self) -> tuple[str, ...]:
        types = self._list("content_types", list(DEFAULT_CONTENT_TYPES))
        if not types:
            self._problem("content_types", "name at least one, or leave the setting out")
        for entry in types:
            if not isinstance(entry, str) or not _CONTENT_TYPE.fullmatch(entry.lower()):
                self._problem("content_types", f"{entry!r} is no content type like application/json or text/*")
        return tuple(str(entry).lower() for entry in types)

    def _statuses(self) -> frozenset[int]:
        found: set[int] = set()
        for entry in self._list("success_statuses", ["2xx"]):
            whole_class = _STATUS_CLASS.fullmatch(entry) if isinstance(entry, str) else None
            if whole_class is not None:
                first = int(whole_class[1]) * 100
                found.update(range(first, first + 100))
            elif isinstance(entry, int) and not isinstance(entry, bool) and 200 <= entry <= 599:
                found.add(entry)
            else:
                self._problem("success_statuses", f'{entry!r} is no status like 200 and no class like "2xx"')
        if not found and not self.problems:
            self._problem("success_statuses", "name at least one, or leave the setting out")
        return frozenset(found)

    # --- objects and lists

    def _object(self, field: str) -> dict[str, Any]:
        value = self._settings.get(field, {})
        if not isinstance(value, dict):
            self._problem(field, "expected an object")
            return {}
        self._check_number(field, value)
        return value

    def _list(self, field: str, default: list[Any]) -> list[Any]:
        value = self._settings.get(field, default)
        if not isinstance(value, list):
            self._problem(field, "expected a list")
            return default
        self._check_number(field, value)
        return value

    def _check_number(self, field: str, value: dict[str, Any] | list[Any]) -> None:
        if len(value) > _MAX_ENTRIES:
            self._problem(field, f"at most {_MAX_ENTRIES} entries")

    def _only(self, field: str, value: dict[str, Any], allowed: tuple[str, ...]) -> None:
        for name in value:
            if name not in allowed:
                self._problem(f"{field}.{name[:64]}", f"there is no such setting; there are {', '.join(allowed)}")

    def _parameters(self, url: UrlTemplate, method: str) -> dict[str, Parameter]:
        found = {}
        for argument, entry in self._object("parameters").items():
            field = f"parameters.{argument[:64]}"
            described = {"in": entry} if isinstance(entry, str) else entry
            if not isinstance(described, dict):
                self._problem(field, f"expected an object, or one of {', '.join(Place)}")
                continue
            self._only(field, described, ("in", "name", "lists"))
            parameter = self._parameter(field, argument, described, url)
            if parameter is not None:
                found[argument] = parameter
        return found

    def _parameter(self, field: str, argument: str, entry: dict[str, Any], url: UrlTemplate) -> Parameter | None:
        place, name = entry.get("in"), entry.get("name", argument)
        if place not in tuple(Place):
            self._problem(f"{field}.in", f"expected one of {', '.join(Place)}")
            return None
        if not isinstance(name, str) or not name:
            self._problem(f"{field}.name", "expected the name under which it is sent")
            return None
        repeats = place in (Place.QUERY, Place.BODY)
        lists = entry.get("lists", ListStyle.REPEAT if repeats else ListStyle.COMMA)
        if lists not in tuple(ListStyle) or (lists == ListStyle.REPEAT and not repeats):
            allowed = [style for style in ListStyle if repeats or style is not ListStyle.REPEAT]
            self._problem(f"{field}.lists", f"expected one of {', '.join(allowed)}")
            return None
        if place == Place.PATH and name not in url.names:
            self._problem(field, f"the URL has no {{{name}}} in its path")
        if place == Place.HEADER:
            self._check_header_name(f"{field}.name", name)
        return Parameter(Place(place), name, ListStyle(lists))

    def _headers(self) -> dict[str, str]:
        found = self._object("headers")
        for name, value in found.items():
            field = f"headers.{name[:64]}"
            self._check_header_name(field, name)
            if is_secret_name(name) and name.lower() not in _CREDENTIAL_HEADERS:
                self._problem(field, "the name is one of a secret, and settings are shown: use the setting credentials")
            if not isinstance(value, str) or not header_value_fits(value):
                self._problem(field, "expected a text of visible ASCII characters on one line")
        return {name: str(value) for name, value in found.items()}

    def _check_header_name(self, field: str, name: str) -> None:
        if not _TOKEN.fullmatch(name):
            self._problem(field, f"{name[:64]!r} is no name of a header")
        elif name.lower() in _OWN_HEADERS:
            self._problem(field, f"the header {name} belongs to the connection and cannot be set")
        elif name.lower() in _CREDENTIAL_HEADERS:
            self._problem(field, f"the header {name} carries credentials: use the setting credentials")

    def _credentials(self) -> list[PlacedCredential]:
        found = []
        for position, entry in enumerate(self._list("credentials", [])):
            field = f"credentials[{position}]"
            if not isinstance(entry, dict):
                self._problem(field, "expected an object")
                continue
            self._only(field, entry, ("name", "placement", "parameter"))
            placed = self._credential(field, entry)
            if placed is not None:
                found.append(placed)
        return found

    def _credential(self, field: str, entry: dict[str, Any]) -> PlacedCredential | None:
        name, placement, parameter = entry.get("name"), entry.get("placement"), entry.get("parameter", "")
        problem = name_problem(name) if isinstance(name, str) else "expected the name of a credential"
        if problem:
            self._problem(f"{field}.name", problem.removesuffix("."))
            return None
        if placement not in tuple(Placement):
            self._problem(f"{field}.placement", f"expected one of {', '.join(Placement)}")
            return None
        needs_name = placement in (Placement.HEADER, Placement.QUERY)
        if not isinstance(parameter, str) or needs_name != bool(parameter):
            wanted = "say which header or parameter carries it" if needs_name else f"{placement} needs none"
            self._problem(f"{field}.parameter", wanted)
            return None
        if placement == Placement.HEADER and (not _TOKEN.fullmatch(parameter) or parameter.lower() in _OWN_HEADERS):
            self._problem(f"{field}.parameter", f"{parameter[:64]!r} is no header that can carry a credential")
            return None
        return PlacedCredential(str(name), Placement(placement), parameter)

    def _response(self) -> ResponseMap:
        entry = self._object("response")
        self._only("response", entry, ("pointer", "fields"))
        fields = entry.get("fields", {})
        if not isinstance(fields, dict):
            self._problem("response.fields", "expected an object")
            fields = {}
        pointer = self._pointer("response.pointer", entry.get("pointer", ""))
        named = ((name, self._pointer(f"response.fields.{name[:64]}", text)) for name, text in fields.items())
        return ResponseMap(pointer, tuple(named))

    def _pointer(self, field: str, text: object) -> tuple[str, ...]:
        if not isinstance(text, str):
            self._problem(field, "expected a JSON Pointer")
            return ()
        try:
            return json_pointer.parse(text)
        except json_pointer.InvalidPointerError as error:
            self._problem(field, str(error).removesuffix("."))
            return ()

    # --- fields together

    def _check_path(self, found: EndpointSettings) -> None:
        given = [item.name for item in found.parameters.values() if item.place is Place.PATH]
        for name in found.url.names:
            elsewhere = name in found.parameters and found.parameters[name].place is not Place.PATH
            if given.count(name) > 1 or (elsewhere and name not in given):
                self._problem("parameters", f"{{{name}}} in the URL must be given by exactly one argument")

    def _check_body(self, found: EndpointSettings) -> None:
        in_body = [name for name, item in found.parameters.items() if item.place is Place.BODY]
        if in_body and found.method in WITHOUT_BODY:
            self._problem(f"parameters.{in_body[0][:64]}.in", f"a {found.method} request has no body")
        if not found.body_argument:
            return
        if found.method in WITHOUT_BODY:
            self._problem("body_argument", f"a {found.method} request has no body")
        if in_body or found.body_argument in found.parameters:
            self._problem("body_argument", "it is the whole body: nothing else can stand in the body or elsewhere")

    def _check_names(self, found: EndpointSettings) -> None:
        """Nothing may be sent twice under one name: two readers of a request may take different ones."""
        placed = [item for item in found.credentials if item.placement is not Placement.QUERY]
        headers = [
            *found.headers,
            *(item.name for item in found.parameters.values() if item.place is Place.HEADER),
            *(item.parameter or "Authorization" for item in placed),
            found.idempotency_header,
        ]
        query = [
            *found.url.query_names,
            *(item.name for item in found.parameters.values() if item.place is Place.QUERY),
            *(item.parameter for item in found.credentials if item.placement is Placement.QUERY),
        ]
        body = [item.name for item in found.parameters.values() if item.place is Place.BODY]
        for where, names in (("header", [name.lower() for name in headers]), ("query", query), ("body", body)):
            for name in sorted({name for name in names if names.count(name) > 1}):
                self._problem(where, f"{name!r} would be sent twice")
