"""An HTTP tool reaches nothing that is not public: not at the form, not at the call, not by a name, not by a redirect.

The targets are real: a server on the loopback interface that must not be asked. The resolver is the test's own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError

from agentbackend.foundation.outbound import OutboundPolicy
from agentbackend.foundation.outbound.addresses import written_address
from agentbackend.foundation.outbound.policy import resolve_by_system
from tests.foundation.loopback import Answer, Loopback, Seen, loopback
from tests.tools.http_support import HttpToolMaker
from tests.tools.support import Door
from tools.calls import ToolOutcome, ToolResult
from tools.versions import Definition, check_definition

Reach = Callable[[OutboundPolicy], None]
Resolver = Callable[[str, int], Awaitable[list[str]]]

REFUSED = "may not be used from here"

# The loopback interface, private networks and metadata services, in the spellings that systems take.
LITERALS = [
    "127.0.0.1", "127.1", "127.0.1", "0.0.0.0", "0", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "0177.1",
    "10.0.0.1", "172.16.5.4", "192.168.0.1", "100.64.0.1",
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.43518", "169.254.43518",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "[fd00:ec2::254]", "[fc00::1]",
    "localhost", "LOCALHOST", "localhost.", "a.localhost",
]  # fmt: skip


# These no client of ours takes as a host at all, so that no tool can be saved with them.
NEVER_HOSTS = [
    "0177.0.0.1",
    "0251.0376.0251.0376",
    "127.0.0.1.",
    "[::1",
    "127.0.0.1%00",
    "127.0.0.1\\.example.com",
    ".",
    "::1",
]


def resolver(**names: list[str]) -> Resolver:
    """Knows these names (underscores stand for dots); the spellings of addresses are the system's to read."""

    async def resolve(host: str, port: int) -> list[str]:
        return names.get(host.replace(".", "_")) or await resolve_by_system(host, port)

    return resolve


async def local_names(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


@pytest.fixture
def closed(reach: Reach) -> None:
    """The process may reach public addresses only, as without OUTBOUND_ALLOWED_HOSTS."""
    reach(OutboundPolicy())


def definition_of(url: str) -> Definition:
    return Definition("A test", "For a test.", {"type": "object"}, handler_type="http_endpoint", handler={"url": url})


# --- at the form


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("host", LITERALS)
def test_a_host_that_is_not_public_is_refused_when_the_tool_is_saved(host: str):
    with pytest.raises(ValidationError) as caught:
        check_definition(definition_of(f"http://{host}:8080/x"))

    [message] = caught.value.message_dict["handler"]
    assert message.startswith("url: the host ")
    assert "OUTBOUND_ALLOWED_HOSTS" in message


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("host", NEVER_HOSTS)
def test_what_is_no_host_is_refused_when_the_tool_is_saved(host: str):
    with pytest.raises(ValidationError) as caught:
        check_definition(definition_of(f"http://{host}:8080/x"))

    assert caught.value.message_dict["handler"][0].startswith("url: ")


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize(
    "host",
    [
        "93.184.216.34",
        "1572395042",
        "[2606:4700:4700::1111]",
        "api.example.com",
        "127.0.0.1.example.com",
        "localhost.example",
    ],
)
def test_a_public_host_or_a_name_is_taken_when_the_tool_is_saved(host: str):
    check_definition(definition_of(f"https://{host}/x"))


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1"), ("2130706433", "127.0.0.0/8"), ("localhost", "localhost:8080"), ("localhost", "127.0.0.1"),
        ("[::1]", "::1"),
    ],
)  # fmt: skip
def test_a_listed_host_is_taken_when_the_tool_is_saved(reach: Reach, host: str, allowed: str):
    reach(OutboundPolicy(allowed_hosts=[allowed]))

    check_definition(definition_of(f"http://{host}:8080/x"))


def test_a_host_that_is_listed_at_another_port_is_refused_when_the_tool_is_saved(reach: Reach):
    reach(OutboundPolicy(allowed_hosts=["127.0.0.1:9000", "localhost:9000"]))

    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(ValidationError):
            check_definition(definition_of(f"http://{host}:8080/x"))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0x7f.1", "127.0.0.1"), ("017700000001", "127.0.0.1"), ("[::ffff:a00:1]", "10.0.0.1"), ("1.2.3.4.", "1.2.3.4"),
        ("a.example", None), ("1.2.3.4.5", None), ("", None),
    ],
)  # fmt: skip
def test_a_written_address_is_read_in_every_spelling(host: str, address: str | None):
    found = written_address(host)

    assert (None if found is None else str(found)) == address


# --- at the call


@pytest.mark.parametrize("host", LITERALS)
async def test_a_host_that_is_not_public_is_not_connected_to(
    door: Door, make_http_tool: HttpToolMaker, reach: Reach, caplog: pytest.LogCaptureFixture, host: str
):
    """As if the tool had been saved before the rules were narrowed: nobody is asked, and nothing is tried twice."""
    async with loopback() as site:
        reach(OutboundPolicy(allowed_hosts=["0.0.0.0/0", "::/0"]))
        name = await make_http_tool({"url": f"http://{host}:{site.port}/x"}, side_effects="idempotent", max_retries=2)
        reach(OutboundPolicy(resolve=local_names if "local" in host.lower() else resolve_by_system))
        result = await door.call(name)

    assert (result.outcome, result.retryable, site.seen) == (ToolOutcome.FAILED, False, [])
    assert REFUSED in result.content
    assert "public" not in result.content  # the model is told no rule to work around
    [record] = [record for record in caplog.records if record.name == "tools.http_endpoint.failures"]
    assert (record.levelno, vars(record)["reason"]) == (logging.WARNING, "refused")
    assert "is not a public one" in vars(record)["note"]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["::1"],
        ["93.184.216.34", "127.0.0.1"],
        ["fe80::1%eth0"],
    ],
)
async def test_a_name_that_leads_to_an_address_that_is_not_public_is_not_connected_to(
    door: Door, make_http_tool: HttpToolMaker, reach: Reach, addresses: list[str]
):
    reach(OutboundPolicy(resolve=resolver(api_example=addresses)))
    async with loopback() as site:
        result = await door.call(await make_http_tool({"url": f"http://api.example:{site.port}/x"}))

    assert (result.outcome, site.seen) == (ToolOutcome.FAILED, [])
    assert REFUSED in result.content
    assert not any(address in result.content for address in addresses)


def turning(answers: list[list[str]]) -> tuple[Resolver, list[str]]:
    """A resolver that gives these answers in turn, and then the last one; and what it was asked."""
    asked: list[str] = []
    left: Iterator[list[str]] = iter(answers)
    last = answers[-1]

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(left, last)

    return resolve, asked


async def test_a_name_that_changes_its_answer_after_the_check_changes_nothing(
    door: Door, make_http_tool: HttpToolMaker, reach: Reach
):
    """The address that was checked is the one that is connected to: the name is asked once for each connection."""
    async with loopback() as good, loopback() as bad:
        resolve, asked = turning([["127.0.0.1"], ["127.0.0.2"]])
        reach(OutboundPolicy(allowed_hosts=[f"127.0.0.1:{good.port}"], resolve=resolve))
        name = await make_http_tool({"url": f"http://api.example:{good.port}/x", "content_types": ["*/*"]})
        first, second = await door.call(name), await door.call(name)

    assert (first.content, len(good.seen), len(asked)) == ("hello", 1, 2)
    assert REFUSED in second.content
    assert bad.seen == []


async def test_a_name_that_was_public_when_it_was_saved_is_checked_again_at_each_connection(
    door: Door, make_http_tool: HttpToolMaker, reach: Reach
):
    async with loopback() as site:
        resolve, _ = turning([["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]])
        reach(OutboundPolicy(allowed_hosts=["127.0.0.1"], resolve=resolve))
        name = await make_http_tool({"url": f"http://api.example:{site.port}/x", "content_types": ["*/*"]})
        results = [await door.call(name) for _ in range(3)]

    assert [result.ok for result in results] == [True, False, True]


# --- redirects


async def redirected(
    door: Door, make: HttpToolMaker, reach: Reach, target: Callable[[Loopback], str], *, follow: bool
) -> tuple[ToolResult, list[Seen], list[Seen]]:
    """A call of a permitted service that sends its caller on to a forbidden one, which has an answer ready."""
    async with loopback() as forbidden:

        def send_on(seen: Seen) -> Answer:
            return Answer(302, b"", {"location": target(forbidden)})

        async with loopback(send_on) as front:
            names = resolver(front_example=["127.0.0.1"], inside_example=["127.0.0.1"], localhost=["127.0.0.1"])
            reach(OutboundPolicy(allowed_hosts=[f"127.0.0.1:{front.port}"], resolve=names))
            url = f"http://front.example:{front.port}/x"
            name = await make({"url": url, "follow_redirects": follow, "content_types": ["*/*"]})
            return await door.call(name), front.seen, forbidden.seen


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "inside.example", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "user:pass@127.0.0.1"],
)
async def test_a_redirect_to_an_address_that_is_not_public_is_not_followed(
    door: Door, make_http_tool: HttpToolMaker, reach: Reach, host: str
):
    result, front, forbidden = await redirected(
        door, make_http_tool, reach, lambda site: f"http://{host}:{site.port}/latest/meta-data/", follow=True
    )

    assert (result.outcome, len(front), forbidden) == (ToolOutcome.FAILED, 1, [])
    assert REFUSED in result.content


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "gopher://127.0.0.1:6379/_FLUSHALL", "ftp://127.0.0.1/", "//["]
)
async def test_a_redirect_to_something_else_than_a_website_is_not_followed(
    door: Door, make_http_tool: HttpToolMaker, reach: Reach, target: str
):
    result, front, _ = await redirected(door, make_http_tool, reach, lambda site: target, follow=True)

    assert (result.outcome, len(front)) == (ToolOutcome.FAILED, 1)
    assert "root:" not in result.content


async def test_without_the_setting_no_redirect_is_followed(door: Door, make_http_tool: HttpToolMaker, reach: Reach):
    result, front, forbidden = await redirected(
        door, make_http_tool, reach, lambda site: f"http://127.0.0.1:{site.port}/", follow=False
    )

    assert (result.ok, len(front), forbidden) == (False, 1, [])
    assert "does not follow" in result.content


async def test_a_credential_does_not_follow_a_redirect_to_another_host(
    door: Door, make_http_tool: HttpToolMaker, reach: Reach, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SOME_TOOL_KEY", "s3cr3t-value")
    async with loopback() as other:
        onward = Answer(307, b"", {"location": f"http://other.example:{other.port}/"})
        async with loopback(lambda seen: onward) as front:
            names = resolver(front_example=["127.0.0.1"], other_example=["127.0.0.1"])
            reach(OutboundPolicy(allowed_hosts=["127.0.0.1"], resolve=names))
            placed = [
                {"name": "SOME_TOOL_KEY", "placement": "header", "parameter": "X-Api-Key"},
                {"name": "SOME_TOOL_KEY", "placement": "bearer"},
                {"name": "SOME_TOOL_KEY", "placement": "query", "parameter": "key"},
            ]
            settings = {
                "url": f"http://front.example:{front.port}/",
                "follow_redirects": True,
                "content_types": ["*/*"],
            }
            name = await make_http_tool({**settings, "credentials": placed}, required_credentials=["SOME_TOOL_KEY"])
            result = await door.call(name)

    assert result.ok
    assert "s3cr3t-value" in front.seen[0].target + str(front.seen[0].headers)
    assert "s3cr3t-value" not in other.seen[0].target + str(other.seen[0].headers)


# --- the environment


async def test_a_proxy_of_the_environment_is_not_used(
    door: Door, make_http_tool: HttpToolMaker, reach: Reach, monkeypatch: pytest.MonkeyPatch
):
    async with loopback() as proxy, loopback() as site:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        reach(OutboundPolicy(allowed_hosts=["127.0.0.1"]))
        tool = await make_http_tool({"url": site.url, "content_types": ["*/*"]})
        result = await door.call(tool)

    assert (result.content, len(site.seen), proxy.seen) == ("hello", 1, [])


async def test_the_settings_of_the_service_decide(door: Door, make_http_tool: HttpToolMaker, reach: Reach):
    """What is saved with one policy is checked again under the next: narrowing the rules closes tools at once."""
    async with loopback() as site:
        reach(OutboundPolicy(allowed_hosts=[f"127.0.0.1:{site.port}"]))
        name = await make_http_tool({"url": site.url, "content_types": ["*/*"]})
        before = await door.call(name)
        reach(OutboundPolicy())
        after = await door.call(name)
        with pytest.raises(ValidationError):
            await sync_to_async(check_definition)(definition_of(site.url))

    assert (before.ok, after.ok, len(site.seen)) == (True, False, 1)
