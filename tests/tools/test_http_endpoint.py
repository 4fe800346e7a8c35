"""Tools that are HTTP endpoints: settings that are refused, and calls through the door to real servers."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import orjson
import pytest

from tests.foundation.loopback import Answer, Loopback, Seen, loopback
from tests.tools.http_support import HttpToolMaker, raw_server, schema_of
from tests.tools.support import Door, details, somebody
from tools import json_pointer
from tools.calls import CallContext, ToolCall, ToolOutcome, ToolResult
from tools.door import call_tool
from tools.handlers import HANDLERS, UnusableHandlerError

SECRET = "s3cr3t/value+of=a credential"
JSON = {"content-type": "application/json"}

pytestmark = pytest.mark.usefixtures("reach")


def check(**settings: Any) -> None:
    HANDLERS["http_endpoint"].check({"url": "https://api.example.com/x", **settings})


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, orjson.dumps(value), {**JSON, **named})


# --- settings


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"method": "get"}, "method: expected one of GET"),
        ({"method": "TRACE"}, "method: "),
        ({"url": ""}, "url: this setting is required"),
        ({"url": 5}, "url: this setting is required"),
        ({"url": "ftp://api.example.com/"}, "url: expected http:// or https://"),
        ({"url": "//api.example.com/"}, "url: expected"),
        ({"url": "https://{host}/x"}, "url: expected"),
        ({"url": "https://{host}.example.com/x"}, "url: expected"),
        ({"url": "https://user:pass@api.example.com/"}, "without a login"),
        ({"url": "https://user:80@api.example.com/"}, "without a login"),
        ({"url": "https://api.example.com:0/"}, "no host"),
        ({"url": "https://api.example.com:99999/"}, "no host"),
        ({"url": "https://api.example.com/x?y={z}"}, "only stand in the path"),
        ({"url": "https://api.example.com/{a b}"}, "only stand in the path"),
        ({"url": "https://api.example.com/{a"}, "only stand in the path"),
        ({"url": "https://api.example.com/{a}/{a}"}, "only once"),
        ({"url": "https://api.example.com/x#y"}, "fragment"),
        ({"url": "https://api.example.com/a/../b"}, "no . or .."),
        ({"url": "https://api.example.com/a/%2e%2E/b"}, "no . or .."),
        ({"url": "https://api.example.com/a\\b"}, "backslash"),
        ({"url": "https://api.example.com/100%"}, "%"),
        ({"url": "https://api.example.com/x\r\ny"}, "url: "),
        ({"url": "https://api.example.com/?api_key=abc"}, "name of a secret"),
        ({"body": "xml"}, "body: expected one of json, form"),
        ({"body": "json"}, "a GET request has none"),
        ({"parameters": []}, "parameters: expected an object"),
        ({"parameters": {"a": {"in": "cookie"}}}, "parameters.a.in: expected one of path, query, header, body"),
        ({"parameters": {"a": {"in": "query", "nmae": "b"}}}, "parameters.a.nmae: there is no such setting"),
        ({"parameters": {"a": "path"}}, "no {a} in its path"),
        ({"parameters": {"a": "body"}}, "a GET request has no body"),
        ({"parameters": {"a": {"in": "header", "name": "X Y"}}}, "no name of a header"),
        ({"parameters": {"a": {"in": "header", "name": "Host"}}}, "belongs to the connection"),
        ({"parameters": {"a": {"in": "header", "name": "Authorization"}}}, "carries credentials"),
        ({"parameters": {"a": {"in": "query", "name": "x"}, "b": {"in": "query", "name": "x"}}}, "'x' would be sent twice"),
        ({"parameters": {"a": {"in": "header", "lists": "repeat"}}}, "parameters.a.lists: expected one of comma, json"),
        ({"headers": {"Connection": "close"}}, "headers.Connection: the header Connection belongs"),
        ({"headers": {"content-length": "1"}}, "belongs to the connection"),
        ({"headers": {"Cookie": "a=b"}}, "carries credentials"),
        ({"headers": {"X-Api-Key": "abc"}}, "name is one of a secret"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "on one line"),
        ({"headers": {"X-A": 5}}, "headers.X-A: expected a text"),
        ({"credentials": {}}, "credentials: expected a list"),
        ({"credentials": [{"name": "lower", "placement": "bearer"}]}, "credentials[0].name: "),
        ({"credentials": [{"name": "DJANGO_SECRET_KEY", "placement": "bearer"}]}, "setting of the service itself"),
        ({"credentials": [{"name": "A_KEY", "placement": "cookie"}]}, "credentials[0].placement: expected one of"),
        ({"credentials": [{"name": "A_KEY", "placement": "header"}]}, "credentials[0].parameter: say which"),
        ({"credentials": [{"name": "A_KEY", "placement": "basic", "parameter": "x"}]}, "basic needs none"),
        ({"credentials": [{"name": "A_KEY", "placement": "bearer", "value": "x"}]}, "credentials[0].value: there is no"),
        ({"credentials": [{"name": "A_KEY", "placement": "bearer"}, {"name": "B_KEY", "placement": "basic"}]}, "sent twice"),
        ({"response": {"pointer": "data"}}, "response.pointer: 'data' is not a JSON Pointer"),
        ({"response": {"fields": {"a": "/~2"}}}, "response.fields.a: "),
        ({"response": {"path": "/a"}}, "response.path: there is no such setting"),
        ({"content_types": []}, "content_types: name at least one"),
        ({"content_types": ["json"]}, "'json' is no content type"),
        ({"success_statuses": ["6xx"]}, "success_statuses: '6xx' is no status"),
        ({"success_statuses": [True]}, "success_statuses: True"),
        ({"max_response_bytes": 9 * 1024 * 1024}, "max_response_bytes: expected a whole number from 1 to 8388608"),
        ({"max_response_bytes": True}, "max_response_bytes: "),
        ({"follow_redirects": "yes"}, "follow_redirects: expected true or false"),
        ({"method": "POST", "idempotency_header": "Host"}, "idempotency_header: "),
        ({"method": "POST", "body_argument": "b", "parameters": {"a": "body"}}, "body_argument: it is the whole body"),
        ({"timeout": 5}, "timeout: there is no such setting; there are method, url"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused_with_the_fields_name(settings: dict[str, Any], told: str):
    with pytest.raises(UnusableHandlerError) as caught:
        check(**settings)

    assert told in str(caught.value)


def test_all_problems_are_told_at_once():
    with pytest.raises(UnusableHandlerError) as caught:
        check(body="xml", follow_redirects=1, headers={"Host": "x"})

    assert all(name in str(caught.value) for name in ("body: ", "follow_redirects: ", "headers.Host: "))


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "http://93.184.216.34/x",
        "https://bücher.example/ä",
        "HTTPS://API.example.com/{a}:run",
    ],
)
def test_usual_addresses_are_taken(url: str):
    check(url=url)


# --- JSON Pointer: the examples of RFC 6901, section 5

RFC_6901 = {
    "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", RFC_6901), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1), ("/c%d", 2), ("/e^f", 3),
        ("/g|h", 4), ("/i\\j", 5), ('/k"l', 6), ("/ ", 7), ("/m~0n", 8),
    ],
)  # fmt: skip
def test_a_json_pointer_finds_what_the_rfc_says(pointer: str, value: Any):
    tokens = json_pointer.parse(pointer)

    assert json_pointer.find(RFC_6901, tokens) == value
    assert json_pointer.written(tokens) == pointer


@pytest.mark.parametrize(
    "pointer", ["/foo/2", "/foo/-", "/foo/01", "/foo/+1", "/foo/\u0661", "/bar", "/foo/0/x", "/a/b"]
)
def test_a_json_pointer_to_nothing_finds_nothing(pointer: str):
    with pytest.raises(json_pointer.NothingThereError):
        json_pointer.find(RFC_6901, json_pointer.parse(pointer))


# --- requests


async def sent(door: Door, make: HttpToolMaker, arguments: dict[str, Any], path: str = "/x", **settings: Any) -> Seen:
    """What a server sees of a call with these arguments."""
    options = {name: settings.pop(name) for name in ("side_effects", "required_credentials") if name in settings}
    async with loopback(lambda seen: json_answer({})) as site:
        name = await make({"url": site.url + path, **settings}, **options)
        result = await door.call(name, arguments)
        assert result.ok, result.content
        return site.seen[0]


async def test_arguments_go_where_the_settings_say(door: Door, make_http_tool: HttpToolMaker):
    seen = await sent(
        door, make_http_tool, {"city": "Zürich/West", "unit": "c", "trace": "t-1", "note": "n", "days": 3, "on": True},
        "/v1/cities/{city}/reports?format=json",
        method="POST",
        parameters={"unit": {"in": "query", "name": "u"}, "trace": {"in": "header", "name": "X-Trace"}, "days": "query"},
        headers={"Accept-Language": "en"},
    )  # fmt: skip

    assert seen.method == "POST"
    assert seen.target == "/v1/cities/Z%C3%BCrich%2FWest/reports?format=json&u=c&days=3"
    assert (seen.headers["x-trace"], seen.headers["accept-language"]) == ("t-1", "en")
    assert (seen.headers["content-type"], json.loads(seen.body)) == ("application/json", {"note": "n", "on": True})
    assert "cookie" not in seen.headers


@pytest.mark.parametrize("extra", ["amt", "acct", "ACCT"])
async def test_what_another_argument_is_sent_as_is_no_argument(door: Door, make_http_tool: HttpToolMaker, extra: str):
    """Else a rule on `amount` could be passed round by sending `amt` beside it."""
    async with loopback(lambda seen: json_answer({})) as site:
        name = await make_http_tool(
            {
                "method": "POST",
                "url": f"{site.url}/pay/{{acct}}",
                "parameters": {"to": {"in": "path", "name": "acct"}, "amount": {"in": "body", "name": "amt"}},
            }
        )
        result = await door.call(name, {"to": "alice", "amount": 1, extra: 1000000})

    assert f"There is no argument {extra!r}" in result.content
    assert site.seen == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_without_settings_arguments_of_a_request_without_body_go_into_the_query(
    door: Door, make_http_tool: HttpToolMaker, method: str
):
    arguments = {"q": "a&b=c d", "tag": ["x", "y"], "none": None, "exact": True, "limit": 1.5}
    seen = await sent(door, make_http_tool, arguments, method=method)

    assert seen.target == "/x?q=a%26b%3Dc%20d&tag=x&tag=y&exact=true&limit=1.5"
    assert seen.body == b""


@pytest.mark.parametrize(("lists", "written"), [("repeat", "a=1&a=2"), ("comma", "a=1%2C2"), ("json", "a=%5B1%2C2%5D")])
async def test_lists_in_the_query_are_written_as_the_settings_say(
    door: Door, make_http_tool: HttpToolMaker, lists: str, written: str
):
    seen = await sent(door, make_http_tool, {"a": [1, 2]}, parameters={"a": {"in": "query", "lists": lists}})

    assert seen.target == f"/x?{written}"


async def test_a_body_can_be_a_form(door: Door, make_http_tool: HttpToolMaker):
    seen = await sent(door, make_http_tool, {"a": "1 2", "b": ["x", "y"]}, method="PUT", body="form")

    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    assert seen.body == b"a=1+2&b=x&b=y"


async def test_one_argument_can_be_the_whole_body(door: Door, make_http_tool: HttpToolMaker):
    settings = {"method": "PATCH", "body_argument": "patch", "headers": {"content-type": "application/json-patch+json"}}
    seen = await sent(door, make_http_tool, {"patch": [{"op": "remove"}], "dry": True}, **settings)

    assert (seen.target, json.loads(seen.body)) == ("/x?dry=true", [{"op": "remove"}])
    assert seen.headers["content-type"] == "application/json-patch+json"


@pytest.mark.parametrize(
    "value", [".", "..", "../admin", "a/../b", "..\\admin", "x/..", "", "./x", "%2e%2e", "a%2f..", "%252e%252E%255c"]
)
async def test_an_argument_cannot_lead_to_another_path(door: Door, make_http_tool: HttpToolMaker, value: str):
    async with loopback() as site:
        name = await make_http_tool({"url": f"{site.url}/users/{{id}}/files"})
        result = await door.call(name, {"id": value})

    assert (result.outcome, site.seen) == (ToolOutcome.FAILED, [])
    assert "'id' must not" in result.content


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a/b?c#d", "a%2Fb%3Fc%23d"), ("50%", "50%25"), ("..;x", "..%3Bx"), ("a\r\nb", "a%0D%0Ab"), ("@evil:80", "%40evil%3A80"),
        ("{id}", "%7Bid%7D"), ("...", "..."),
    ],
)  # fmt: skip
async def test_whatever_an_argument_holds_it_stays_one_segment(
    door: Door, make_http_tool: HttpToolMaker, value: str, written: str
):
    seen = await sent(door, make_http_tool, {"id": value}, "/users/{id}/files")

    assert seen.target == f"/users/{written}/files"


async def test_two_arguments_together_cannot_make_dots(door: Door, make_http_tool: HttpToolMaker):
    async with loopback() as site:
        name = await make_http_tool({"url": f"{site.url}/a/.{{tail}}"})
        result = await door.call(name, {"tail": "."})

    assert (result.outcome, site.seen) == (ToolOutcome.FAILED, [])


async def test_a_missing_path_parameter_is_named(door: Door, make_http_tool: HttpToolMaker):
    name = await make_http_tool({"url": "http://127.0.0.1:9/{a}/{b}"})
    result = await door.call(name, {"a": "x", "b": None})

    assert "part of the address: b" in result.content


@pytest.mark.parametrize("value", ["a\r\nX-Admin: 1", "a\nb", "ä", " a", "a\x00b".replace("\x00", "\x7f")])
async def test_an_argument_cannot_break_out_of_its_header(door: Door, make_http_tool: HttpToolMaker, value: str):
    async with loopback() as site:
        name = await make_http_tool({"url": site.url, "parameters": {"h": {"in": "header", "name": "X-H"}}})
        result = await door.call(name, {"h": value})

    assert (result.outcome, site.seen) == (ToolOutcome.FAILED, [])
    assert "'h' may only have ASCII characters" in result.content


async def test_an_argument_cannot_take_the_place_of_a_fixed_parameter(
    door: Door, make_http_tool: HttpToolMaker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SOME_TOOL_KEY", SECRET)
    placed = [{"name": "SOME_TOOL_KEY", "placement": "query", "parameter": "key"}]
    async with loopback() as site:
        settings = {"url": f"{site.url}/x?tenant=1", "credentials": placed}
        name = await make_http_tool(settings, required_credentials=["SOME_TOOL_KEY"])
        results = [await door.call(name, {argument: "2"}) for argument in ("tenant", "key")]

    assert [result.outcome for result in results] == [ToolOutcome.FAILED] * 2
    assert site.seen == []


async def test_an_address_that_grows_too_long_is_refused(door: Door, make_http_tool: HttpToolMaker):
    name = await make_http_tool({"url": "http://127.0.0.1:9/x"})

    assert "more than 8000 characters" in (await door.call(name, {"q": "x" * 9000})).content


async def test_connections_are_used_again(door: Door, make_http_tool: HttpToolMaker):
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()
            await reader.readuntil(b"\r\n\r\n")

    async with raw_server(serve) as port:
        name = await make_http_tool({"url": f"http://127.0.0.1:{port}/"})
        results = [await door.call(name) for _ in range(3)]

    assert [result.content for result in results] == ["ok"] * 3
    assert connections == 1


# --- credentials


@pytest.mark.parametrize(
    ("placed", "header", "value"),
    [
        ({"placement": "header", "parameter": "X-Api-Key"}, "x-api-key", SECRET),
        ({"placement": "bearer"}, "authorization", f"Bearer {SECRET}"),
        ({"placement": "basic"}, "authorization", f"Basic {base64.b64encode(SECRET.encode()).decode()}"),
    ],
)
async def test_a_credential_stands_in_the_header_that_the_settings_say(
    door: Door, make_http_tool: HttpToolMaker, monkeypatch: pytest.MonkeyPatch, placed: Any, header: str, value: str
):
    monkeypatch.setenv("SOME_TOOL_KEY", SECRET)
    seen = await sent(
        door,
        make_http_tool,
        {},
        credentials=[{"name": "SOME_TOOL_KEY", **placed}],
        required_credentials=["SOME_TOOL_KEY"],
    )

    assert seen.headers[header] == value


@pytest.mark.parametrize(
    "placed",
    [
        {"placement": "query", "parameter": "key"},
        {"placement": "header", "parameter": "X-Api-Key"},
        {"placement": "bearer"},
        {"placement": "basic"},
    ],
)
@pytest.mark.parametrize("status", [200, 401, 422])
async def test_credentials_that_come_back_reach_neither_model_nor_log_nor_trail(
    door: Door, make_http_tool: HttpToolMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    placed: dict[str, str], status: int,
):  # fmt: skip
    """A server that repeats the whole request, in text, in JSON and in the names of JSON's fields."""
    secret = "someone:s3cr3t/pass+word="
    monkeypatch.setenv("SOME_TOOL_KEY", secret)

    def echo(seen: Seen) -> Answer:
        said = f"{seen.target} {seen.headers}"
        return json_answer({"detail": said, "more": {said: [said]}}, status)

    async with loopback(echo) as site:
        settings = {"url": f"{site.url}/x", "credentials": [{"name": "SOME_TOOL_KEY", **placed}]}
        name = await make_http_tool(settings, required_credentials=["SOME_TOOL_KEY"])
        with caplog.at_level(logging.DEBUG):
            result = await door.call(name)
        [seen] = site.seen

    carried = seen.target + str(seen.headers)
    encoded = base64.b64encode(secret.encode()).decode()
    forms = (secret, "s3cr3t/pass+word=", "s3cr3t%2Fpass", encoded)
    assert any(form in carried for form in forms)
    trail = b"".join(entry.envelope + entry.payload_row[-1] for entry in door.recorder.entries if entry.payload_row)
    for written in (result.content, repr(result.value), caplog.text, trail.decode()):
        assert not any(form in written for form in forms)
        assert "s3cr3t" not in written


@pytest.mark.parametrize("padding", [270, 280, 285, 290, 295, 299])
@pytest.mark.parametrize("content_type", ["text/plain", "application/json"])
async def test_no_beginning_of_a_credential_is_left_where_an_error_is_cut(
    door: Door, make_http_tool: HttpToolMaker, monkeypatch: pytest.MonkeyPatch, padding: int, content_type: str
):
    secret = "s3cr3t/key+AB=&CD'EF<GH>"
    monkeypatch.setenv("SOME_TOOL_KEY", secret)
    said = "x" * padding + " " + secret
    body = said.encode() if content_type == "text/plain" else json.dumps({"detail": said}).encode()
    async with loopback(lambda seen: Answer(400, body, {"content-type": content_type})) as site:
        placed = [{"name": "SOME_TOOL_KEY", "placement": "bearer"}]
        name = await make_http_tool({"url": site.url, "credentials": placed}, required_credentials=["SOME_TOOL_KEY"])
        result = await door.call(name)

    assert "xxx" in result.content
    assert "s3c" not in result.content


async def test_a_credential_that_the_version_does_not_require_is_a_fault_that_the_operator_reads(
    door: Door, make_http_tool: HttpToolMaker, caplog: pytest.LogCaptureFixture
):
    placed = [{"name": "SOME_TOOL_KEY", "placement": "bearer"}]
    name = await make_http_tool({"url": "http://127.0.0.1:9/", "credentials": placed})
    result = await door.call(name)

    assert result.outcome is ToolOutcome.FAILED
    assert "SOME_TOOL_KEY" not in result.content
    assert "add it to the required credentials" in caplog.text


async def test_a_credential_with_a_line_break_is_not_sent_and_not_logged(
    door: Door, make_http_tool: HttpToolMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("SOME_TOOL_KEY", "s3cr3t\r\nX-Admin: 1")
    placed = [{"name": "SOME_TOOL_KEY", "placement": "header", "parameter": "X-Key"}]
    async with loopback() as site:
        name = await make_http_tool({"url": site.url, "credentials": placed}, required_credentials=["SOME_TOOL_KEY"])
        result = await door.call(name)

    assert (result.outcome, site.seen) == (ToolOutcome.FAILED, [])
    assert "cannot stand in a header" in caplog.text
    assert "s3cr3t" not in caplog.text + result.content


# --- answers


async def answered(door: Door, make: HttpToolMaker, answer: Answer, **settings: Any) -> ToolResult:
    options = {name: settings.pop(name) for name in ("side_effects", "output_schema") if name in settings}
    async with loopback(lambda seen: answer) as site:
        name = await make({"url": f"{site.url}/x", **settings}, **options)
        return await door.call(name)


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ({}, {"data": {"items": [{"n": 1}, {"n": 2}]}, "a/b": "c"}),
        ({"pointer": "/data/items/1"}, {"n": 2}),
        ({"pointer": "/a~1b"}, "c"),
        ({"fields": {"first": "/data/items/0/n", "all": "/data/items", "gone": "/nowhere"}}, {"first": 1, "all": [{"n": 1}, {"n": 2}]}),
        ({"pointer": "/data", "fields": {"second": "/items/1/n"}}, {"second": 2}),
    ],
)  # fmt: skip
async def test_what_is_taken_from_an_answer(door: Door, make_http_tool: HttpToolMaker, response: Any, value: Any):
    answer = json_answer({"data": {"items": [{"n": 1}, {"n": 2}]}, "a/b": "c"})
    result = await answered(door, make_http_tool, answer, response=response)

    assert result.ok
    assert (result.value or result.content) == value


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (Answer(200, b"gr\xfc\xdfe", {"content-type": "text/plain; charset=latin-1"}), "grüße"),
        (Answer(200, b"a\xffb", {"content-type": "text/csv"}), "a\N{REPLACEMENT CHARACTER}b"),
        (Answer(200, b"ok", {"content-type": "text/plain; charset=nonsense"}), "ok"),
        (Answer(200, b'\xef\xbb\xbf{"a":1}', {"content-type": "application/vnd.api+json"}), '{"a":1}'),
        (Answer(200, gzip.compress(b'{"a":1}'), {**JSON, "content-encoding": "gzip"}), '{"a":1}'),
        (Answer(204, b"", {}), '{"status":204}'),
        (Answer(201, b"", {}), '{"status":201}'),
        (Answer(200, b"", JSON), '{"status":200}'),
        (json_answer(None), "null"),
    ],
)
async def test_answers_become_text_or_json(door: Door, make_http_tool: HttpToolMaker, answer: Answer, content: str):
    assert (await answered(door, make_http_tool, answer)).content == content


async def test_a_head_request_tells_of_the_answers_headers(door: Door, make_http_tool: HttpToolMaker):
    answer = Answer(200, b"", {"content-type": "image/png", "etag": '"1"', "content-length": "12345"})
    result = await answered(door, make_http_tool, answer, method="HEAD")

    assert result.value == {
        "status": 200,
        "headers": {"content-type": "image/png", "content-length": "12345", "etag": '"1"'},
    }


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(200, b"\x89PNG\0", {"content-type": "image/png"}), "cannot read (image/png)"),
        (Answer(200, b"x", {}), "cannot read (of no type)"),
        (Answer(200, b"\x7fELF\0\0", {"content-type": "text/plain"}), "binary data"),
        (Answer(200, b"<html>", JSON), "said to be JSON and is not"),
        (Answer(200, b'{"a":', JSON), "said to be JSON and is not"),
        (Answer(200, b"[" * 900, JSON), "said to be JSON and is not"),
        (Answer(200, b"[" * 200 + b"]" * 200, JSON), "nested too deeply"),
        (Answer(200, b'{"a":NaN}', JSON), "said to be JSON and is not"),
        (Answer(200, b"x" * 2000, {"content-type": "text/plain"}), "longer than the 1000 bytes"),
        (Answer(200, gzip.compress(b" " * 50_000_000), {**JSON, "content-encoding": "gzip"}), "longer than the 1000 bytes"),
        (Answer(200, b"no gzip", {**JSON, "content-encoding": "gzip"}), "cannot be decompressed"),
        (Answer(200, b"x", {**JSON, "content-encoding": "br"}), "its answer is refused"),
        (Answer(302, b"", {"location": "/elsewhere"}), "has moved"),
    ],
)  # fmt: skip
async def test_an_answer_that_cannot_be_used_is_named_and_survived(
    door: Door, make_http_tool: HttpToolMaker, caplog: pytest.LogCaptureFixture, answer: Answer, told: str
):
    result = await answered(door, make_http_tool, answer, max_response_bytes=1000, side_effects="idempotent")

    assert (result.outcome, result.retryable) == (ToolOutcome.FAILED, False)
    assert told in result.content
    assert len(result.content) < 500
    assert "an HTTP tool did not get what it asked for" in caplog.text


async def test_only_the_content_types_that_are_named_are_read(door: Door, make_http_tool: HttpToolMaker):
    answer = Answer(200, b"<a/>", {"content-type": "application/xml"})

    assert not (await answered(door, make_http_tool, answer)).ok
    assert (await answered(door, make_http_tool, answer, content_types=["application/xml"])).content == "<a/>"


async def test_a_pointer_to_nothing_is_told_without_the_answer(
    door: Door, make_http_tool: HttpToolMaker, caplog: pytest.LogCaptureFixture
):
    result = await answered(door, make_http_tool, json_answer({"private": 1}), response={"pointer": "/data/0"})

    assert "does not have what this tool reads" in result.content
    assert "private" not in result.content
    assert [vars(record)["note"] for record in caplog.records if hasattr(record, "note")] == ["nothing at '/data/0'"]


# --- refusals and failures of the service


@pytest.mark.parametrize(
    ("status", "told", "retryable"),
    [
        (400, "refused the request (400)", False), (401, "An operator", False), (403, "An operator", False),
        (404, "found nothing there (404)", False), (405, "An operator", False), (409, "Other arguments may help", False),
        (410, "found nothing there", False), (422, "Other arguments may help", False), (429, "Try again in a while", True),
        (500, "failed (500)", True), (501, "An operator", False), (502, "failed (502)", True), (503, "not available", True),
        (504, "failed (504)", True), (418, "refused the request (418)", False),
    ],
)  # fmt: skip
async def test_what_a_status_means_is_told(
    door: Door, make_http_tool: HttpToolMaker, status: int, told: str, retryable: bool
):
    result = await answered(door, make_http_tool, Answer(status, b"", {}), side_effects="idempotent")

    assert (result.outcome, result.retryable) == (ToolOutcome.FAILED, retryable)
    assert told in result.content


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "bad_arguments"), (401, "refused"), (404, "not_found"), (422, "bad_arguments"), (429, "rate_limited"),
        (500, "upstream_error"), (503, "unavailable"), (504, "timeout"),
    ],
)  # fmt: skip
async def test_a_status_is_told_as_a_kind_of_failure(door: Door, make_http_tool: HttpToolMaker, status: int, kind: str):
    result = await answered(door, make_http_tool, Answer(status, b"", {}), side_effects="idempotent")

    assert result.kind == kind


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b'{"detail": "No such city.\\n\\u0000  Try\\u202e another."}', "application/problem+json", "No such city. Try another."),
        (b'{"error": {"message": "quota"}}', "application/json", "quota"),
        (b'{"errors": [{"msg": "bad date"}]}', "application/json", "bad date"),
        (b'"plainly"', "application/json", "plainly"),
        (b"too old\n", "text/plain; charset=utf-8", "too old"),
        (b'{"detail": "' + b"x" * 5000 + b'"}', "application/json", "x" * 300 + "..."),
        (b"[" * 900 + b"]" * 900, "application/json", ""),
        (b"<html>trace</html>", "text/html", ""),
        (b"\x00\x01", "application/octet-stream", ""),
        (b'{"detail": "' + b"x" * 50_000 + b'"}', "application/json", ""),
    ],
)  # fmt: skip
async def test_what_the_service_says_of_a_refusal_is_told_in_short(
    door: Door, make_http_tool: HttpToolMaker, body: bytes, content_type: str, said: str
):
    result = await answered(door, make_http_tool, Answer(422, body, {"content-type": content_type}))

    assert (f"It says: {said}" in result.content) if said else ("It says" not in result.content)
    assert "trace" not in result.content


async def test_refused_credentials_are_named_to_the_operator_and_not_to_the_model(
    door: Door, make_http_tool: HttpToolMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("SOME_TOOL_KEY", SECRET)
    async with loopback(lambda seen: Answer(401)) as site:
        placed = [{"name": "SOME_TOOL_KEY", "placement": "bearer"}]
        name = await make_http_tool({"url": site.url, "credentials": placed}, required_credentials=["SOME_TOOL_KEY"])
        result = await door.call(name)

    assert "did not accept this service's credentials" in result.content
    assert "SOME_TOOL_KEY" not in result.content
    [record] = [record for record in caplog.records if record.name == "tools.http_endpoint.failures"]
    assert (vars(record)["tool"], vars(record)["uses"], vars(record)["status"]) == (name, ["SOME_TOOL_KEY"], 401)


async def test_after_a_failure_with_an_unknown_effect_nobody_is_told_to_repeat_an_unsafe_call(
    door: Door, make_http_tool: HttpToolMaker
):
    result = await answered(door, make_http_tool, Answer(502), method="POST")

    assert not result.retryable
    assert "may have taken effect" in result.content


# --- retries


async def answering(
    door: Door, make: HttpToolMaker, *answers: Answer, settings: dict[str, Any] | None = None, **options: Any
) -> tuple[ToolResult, Loopback]:
    """A call of a tool whose server gives these answers in turn."""
    left = list(answers)
    async with loopback(lambda seen: left.pop(0)) as site:
        name = await make(
            {"url": site.url, **(settings or {})}, **{"side_effects": "idempotent", "max_retries": 2, **options}
        )
        return await door.call(name), site


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_failure_that_may_pass_is_tried_again(door: Door, make_http_tool: HttpToolMaker, status: int):
    result, site = await answering(door, make_http_tool, Answer(status), json_answer("done"))

    assert (result.content, len(site.seen)) == ("done", 2)


async def test_retries_do_not_multiply(door: Door, make_http_tool: HttpToolMaker):
    result, site = await answering(door, make_http_tool, *[Answer(503)] * 9)

    assert (result.outcome, len(site.seen)) == (ToolOutcome.FAILED, 3)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_a_refusal_is_not_tried_again(door: Door, make_http_tool: HttpToolMaker, status: int):
    result, site = await answering(door, make_http_tool, *[Answer(status)] * 3)

    assert (result.ok, len(site.seen)) == (False, 1)


async def test_a_wait_that_is_longer_than_the_time_left_is_told_instead_of_waited(
    door: Door, make_http_tool: HttpToolMaker
):
    result, site = await answering(door, make_http_tool, *[Answer(429, headers={"retry-after": "3600"})] * 3)

    assert (len(site.seen), result.retryable, result.retry_after_seconds) == (1, True, 3600)
    assert "Try again in 3600 seconds" in result.content


async def test_the_time_that_the_service_asks_for_is_waited(door: Door, make_http_tool: HttpToolMaker):
    times: list[float] = []
    loop = asyncio.get_running_loop()

    def answer(seen: Seen) -> Answer:
        times.append(loop.time())
        return json_answer("done") if len(times) == 2 else Answer(503, headers={"retry-after": "1"})

    async with loopback(answer) as site:
        name = await make_http_tool({"url": site.url}, side_effects="idempotent", max_retries=1)
        assert (await door.call(name)).content == "done"

    assert times[1] - times[0] >= 1  # without the header it would be a tenth of that


async def test_retry_after_can_be_a_date(door: Door, make_http_tool: HttpToolMaker):
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    result, _ = await answering(door, make_http_tool, Answer(503, headers={"retry-after": later}))

    assert 3500 < result.retry_after_seconds <= 3600


@pytest.mark.parametrize("text", ["soon", "-5", "1e9", "99999999999999999999", "\u0661"])
async def test_a_retry_after_that_says_nothing_does_no_harm(door: Door, make_http_tool: HttpToolMaker, text: str):
    async with raw_server(answers_raw(f"HTTP/1.1 429 X\r\nretry-after: {text}\r\ncontent-length: 0\r\n\r\n")) as port:
        name = await make_http_tool({"url": f"http://127.0.0.1:{port}"})
        result = await door.call(name)

    assert (result.retryable, result.retry_after_seconds <= 24 * 3600) == (True, True)


async def test_an_unsafe_call_is_made_once(door: Door, make_http_tool: HttpToolMaker):
    result, site = await answering(
        door, make_http_tool, *[Answer(503)] * 3, settings={"method": "POST"}, side_effects="unsafe", max_retries=0
    )

    assert (result.ok, len(site.seen)) == (False, 1)


async def test_a_keyed_call_carries_the_same_key_each_time(door: Door, make_http_tool: HttpToolMaker):
    settings = {"method": "POST", "idempotency_header": "X-Request-Key"}
    result, site = await answering(
        door, make_http_tool, Answer(502), json_answer("done"), settings=settings, side_effects="keyed"
    )

    keys = [seen.headers["x-request-key"] for seen in site.seen]
    assert result.ok
    assert len(keys) == 2
    assert keys[0] == keys[1]
    assert keys[0].endswith(":call-1")


@pytest.mark.parametrize("call_id", ["a\r\nX-Admin: 1", "ü", "x" * 5000])
async def test_a_callers_own_identifier_cannot_break_out_of_the_keys_header(
    door: Door, make_http_tool: HttpToolMaker, call_id: str
):
    async with loopback(lambda seen: json_answer("done")) as site:
        name = await make_http_tool({"url": site.url, "method": "POST"}, side_effects="keyed")
        context = CallContext(actor=somebody(), recorder=door.recorder, request_id="request-1")
        result = await call_tool(ToolCall(call_id, name, "{}"), context, registry=door.registry)

    assert result.ok
    assert len(site.seen[0].headers["idempotency-key"]) == 64
    assert "x-admin" not in site.seen[0].headers


async def test_other_calls_carry_no_key(door: Door, make_http_tool: HttpToolMaker):
    assert "idempotency-key" not in (await sent(door, make_http_tool, {}, method="POST")).headers


# --- servers that misbehave


def answers_raw(text: str) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text.encode())
        await writer.drain()

    return serve


async def test_a_server_that_never_answers_is_given_up(door: Door, make_http_tool: HttpToolMaker):
    async with loopback(lambda seen: Answer(never=True)) as site:
        name = await make_http_tool({"url": site.url}, timeout_seconds=0.3, side_effects="idempotent")
        result = await door.call(name)

    assert (result.outcome, result.retryable) == (ToolOutcome.TIMED_OUT, True)


async def test_a_server_that_drips_is_given_up(door: Door, make_http_tool: HttpToolMaker):
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_server(drip) as port:
        name = await make_http_tool({"url": f"http://127.0.0.1:{port}"}, timeout_seconds=0.3)
        result = await door.call(name)

    assert result.outcome is ToolOutcome.TIMED_OUT


async def test_a_server_that_floods_is_cut_off(door: Door, make_http_tool: HttpToolMaker):
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with raw_server(flood) as port:
        name = await make_http_tool({"url": f"http://127.0.0.1:{port}", "max_response_bytes": 100_000})
        result = await door.call(name)

    assert "longer than the 100000 bytes" in result.content


async def test_endless_headers_are_survived(door: Door, make_http_tool: HttpToolMaker):
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-a: " + b"b" * 60_000 + b"\r\n")
            await writer.drain()

    async with raw_server(flood) as port:
        name = await make_http_tool({"url": f"http://127.0.0.1:{port}"})
        result = await door.call(name)

    assert (result.outcome, "ended the connection" in result.content) == (ToolOutcome.FAILED, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 two OK\r\n\r\n",
    ],
)
async def test_a_server_that_ends_early_or_speaks_something_else_is_named(
    door: Door, make_http_tool: HttpToolMaker, text: str
):
    async with raw_server(answers_raw(text)) as port:
        settings = {"url": f"http://127.0.0.1:{port}"}
        safe = await door.call(await make_http_tool(settings, side_effects="idempotent"))
        unsafe = await door.call(await make_http_tool({**settings, "method": "POST"}))

    assert (safe.retryable, unsafe.retryable) == (True, False)
    assert "ended the connection before it had answered" in safe.content
    assert "may have taken effect" in unsafe.content


async def test_a_server_that_is_not_there_may_be_there_later(door: Door, make_http_tool: HttpToolMaker):
    async with loopback() as site:
        pass
    result = await door.call(await make_http_tool({"url": site.url, "method": "POST"}))

    assert (result.outcome, result.retryable) == (ToolOutcome.FAILED, True)
    assert "cannot be reached at the moment" in result.content


async def test_a_server_without_tls_is_an_operators_matter(
    door: Door, make_http_tool: HttpToolMaker, caplog: pytest.LogCaptureFixture
):
    async def speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak_plainly, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        result = await door.call(await make_http_tool({"url": f"https://127.0.0.1:{port}/"}, side_effects="idempotent"))

    assert (result.outcome, result.retryable) == (ToolOutcome.FAILED, False)
    assert "No secure connection" in result.content


async def test_a_call_that_is_cancelled_gives_its_connection_back(door: Door, make_http_tool: HttpToolMaker):
    asked, gone = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        gone.set()

    async with raw_server(hold) as port:
        name = await make_http_tool({"url": f"http://127.0.0.1:{port}"})
        task = asyncio.ensure_future(door.call(name))
        await asyncio.wait_for(asked.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 10)


async def test_the_answer_of_an_idempotent_tool_is_checked_against_its_output_schema(
    door: Door, make_http_tool: HttpToolMaker
):
    result = await answered(door, make_http_tool, json_answer({"n": "text"}), output_schema=schema_of(n="integer"))

    assert "not what it promises" in result.content
    assert details(door.last)["message"] == result.content
