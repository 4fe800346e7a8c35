from __future__ import annotations

import asyncio
import gzip
import ipaddress
import ssl
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentbackend.foundation.outbound import (
    OutboundPolicy,
    OutboundPolicyError,
    OutboundRefusedError,
    OutboundTimeoutError,
    OutboundTooLargeError,
    guarded_client,
    read_bounded,
)
from agentbackend.foundation.outbound.addresses import is_public, read_address
from agentbackend.foundation.outbound.httpx2_client import guarded_client_httpx2
from tests.foundation.loopback import Answer, Seen, loopback

Make = Callable[..., Any]

PUBLIC = "93.184.216.34"


@pytest.fixture(params=["httpx", "httpx2"])
def library(request):
    return request.param


@pytest.fixture
def make(library) -> Make:
    return guarded_client if library == "httpx" else guarded_client_httpx2


@pytest.fixture
def errors(library):
    return httpx if library == "httpx" else httpx2


def answers(**addresses: str | list[str]) -> Callable[[str, int], Any]:
    """A resolver that knows these names (underscores stand for dots) and takes literals as they are."""

    async def resolve(host: str, port: int) -> list[str]:
        found = addresses.get(host.replace(".", "_"), host)
        return [found] if isinstance(found, str) else found

    return resolve


# --- addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.10", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "198.18.0.1", "203.0.113.9",
        "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1",
        "2001:db8::1", "3fff::1", "100::1", "5f00::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)  # fmt: skip
def test_an_address_that_is_not_a_public_host_is_recognised(address):
    assert not is_public(read_address(address))


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", PUBLIC, "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"],
)
def test_an_address_of_the_public_internet_is_recognised(address):
    assert is_public(read_address(address))


# --- the connection


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://169.254.169.254/latest",
        "http://[::ffff:10.0.0.1]/", "http://[::ffff:7f00:1]/", "http://2130706433/", "http://0177.1/",
        "http://0x7f.1/", "http://127.1/", "http://0/", "https://10.0.0.1/", "http://[64:ff9b::7f00:1]/",
    ],
)  # fmt: skip
async def test_a_target_that_is_not_public_is_refused_however_it_is_written(make, url):
    async with make(OutboundPolicy()) as client:
        with pytest.raises(OutboundRefusedError, match="not a public one"):
            await client.get(url)


async def test_one_private_address_among_public_ones_is_enough_to_refuse(make):
    resolve = answers(mixed_example=[PUBLIC, "10.0.0.5"])
    async with make(OutboundPolicy(resolve=resolve)) as client:
        with pytest.raises(OutboundRefusedError) as caught:
            await client.get("http://mixed.example/")

    assert "10.0.0.5" not in str(caught.value)


async def test_the_checked_address_is_connected_to_even_when_the_name_changes_its_answer(make):
    """A name that is first answered with an allowed address, and with a forbidden one to whoever asks again."""
    async with loopback() as site:
        given = [["127.0.0.1"], ["10.0.0.5"]]

        async def resolve(host: str, port: int) -> list[str]:
            return given.pop(0)

        policy = OutboundPolicy(allowed_hosts=[f"127.0.0.1:{site.port}"], resolve=resolve)
        async with make(policy) as client:
            response = await client.get(f"http://turning.example:{site.port}/a?b=c")
            with pytest.raises(OutboundRefusedError):
                await client.get(f"http://turning.example:{site.port}/")

    assert response.text == "hello"
    assert [(seen.target, seen.headers["host"]) for seen in site.seen] == [
        ("/a?b=c", f"turning.example:{site.port}"),
    ]


async def test_an_address_that_does_not_answer_is_followed_by_the_next_one(make):
    async with loopback() as site:
        policy = OutboundPolicy(allowed_hosts=["127.0.0.0/8", "::1"], resolve=answers(two_example=["::1", "127.0.0.1"]))
        async with make(policy) as client:
            assert (await client.get(f"http://two.example:{site.port}/")).status_code == 200


@pytest.mark.parametrize("entry", ["peer.example", "PEER.example.", "peer.example:{port}", "127.0.0.1", "127.0.0.0/8"])
async def test_a_listed_host_is_reached_although_it_is_not_public(make, entry):
    async with loopback() as site:
        policy = OutboundPolicy(allowed_hosts=[entry.format(port=site.port)], resolve=answers(peer_example="127.0.0.1"))
        async with make(policy) as client:
            assert (await client.get(f"http://peer.example:{site.port}/")).text == "hello"


@pytest.mark.parametrize("entry", ["peer.example:1", "127.0.0.1:1", "example", "10.0.0.0/8", "[::1]:80"])
async def test_a_listed_host_opens_nothing_beside_itself(make, entry):
    policy = OutboundPolicy(allowed_hosts=[entry], resolve=answers(peer_example="127.0.0.1"))
    async with make(policy) as client:
        with pytest.raises(OutboundRefusedError):
            await client.get("http://peer.example:8080/")


@pytest.mark.parametrize("url", ["http://user:pass@peer.example/", "http://user@peer.example/"])
async def test_an_url_with_credentials_is_refused(make, url):
    async with make(OutboundPolicy(resolve=answers(peer_example=PUBLIC))) as client:
        with pytest.raises(OutboundRefusedError, match="credentials"):
            await client.get(url)


@pytest.mark.parametrize("url", ["ftp://peer.example/", "file:///etc/passwd", "gopher://peer.example/"])
async def test_other_schemes_are_refused(make, errors, url):
    async with make(OutboundPolicy(resolve=answers())) as client:
        with pytest.raises((OutboundRefusedError, errors.UnsupportedProtocol)):
            await client.get(url)


async def test_a_name_without_an_address_is_a_connection_error_of_the_library(make, errors):
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError("no such host, says 10.0.0.53")

    async with make(OutboundPolicy(resolve=resolve)) as client:
        with pytest.raises(errors.ConnectError) as caught:
            await client.get("http://nowhere.example/")

    assert "10.0.0.53" not in str(caught.value)


async def test_a_name_that_is_not_resolved_in_time_is_a_connect_timeout(make, errors):
    async def resolve(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    async with make(OutboundPolicy(resolve=resolve), timeout=0.05) as client:
        with pytest.raises(errors.ConnectTimeout):
            await client.get("http://slow.example/")


async def test_a_refused_connection_is_an_error_of_the_library(make, errors):
    async with loopback() as site:
        pass
    async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"])) as client:
        with pytest.raises(errors.ConnectError):
            await client.get(site.url)


async def test_proxies_of_the_environment_are_ignored(make, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with loopback() as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"])) as client:
            assert (await client.get(site.url)).status_code == 200


async def test_cookies_of_an_answer_are_not_sent_with_the_next_request(make):
    async with loopback(lambda seen: Answer(headers={"set-cookie": "session=theirs; Path=/"})) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"])) as client:
            await client.get(site.url)
            await client.get(site.url)

    assert ["cookie" in seen.headers for seen in site.seen] == [False, False]


async def test_a_policy_prepares_each_client(make):
    prepared: list[Any] = []
    async with make(OutboundPolicy(prepare=prepared.append)) as client:
        assert prepared == [client]


# --- TLS


def certificate_for(name: str, folder: Path) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context with a certificate for `name`, and the file that makes it trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "certificate.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = folder / "key.pem"
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return context, str(pem)


async def test_tls_is_checked_against_the_name_and_the_listed_authorities(make, errors, tmp_path):
    context, authority = certificate_for("peer.example", tmp_path)
    resolve = answers(peer_example="127.0.0.1", other_example="127.0.0.1")
    async with loopback(tls=context) as site:
        policy = OutboundPolicy(allowed_hosts=["127.0.0.1"], ca_file=authority, resolve=resolve)
        async with make(policy) as client:
            assert (await client.get(f"https://peer.example:{site.port}/")).text == "hello"
            with pytest.raises(errors.ConnectError):
                await client.get(f"https://other.example:{site.port}/")
            # The extension that would check the certificate against another name is not passed on.
            with pytest.raises(errors.ConnectError):
                await client.get(f"https://other.example:{site.port}/", extensions={"sni_hostname": "peer.example"})
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"], resolve=resolve)) as client:
            with pytest.raises(errors.ConnectError):
                await client.get(f"https://peer.example:{site.port}/")


# --- the proxy


async def test_public_targets_go_through_the_configured_proxy_with_its_credentials(make):
    async with loopback() as proxy:
        policy = OutboundPolicy(
            proxy=f"http://us%40er:secret@127.0.0.1:{proxy.port}", resolve=answers(peer_example=PUBLIC)
        )
        async with make(policy) as client:
            assert (await client.get("http://peer.example/x")).text == "hello"

    assert proxy.seen[0].target == "http://peer.example/x"
    assert proxy.seen[0].headers["proxy-authorization"] == "Basic dXNAZXI6c2VjcmV0"


async def test_a_target_that_is_not_public_is_refused_before_the_proxy_hears_of_it(make):
    async with loopback() as proxy:
        policy = OutboundPolicy(proxy=f"http://127.0.0.1:{proxy.port}", resolve=answers(inside_example="10.0.0.5"))
        async with make(policy) as client:
            for url in ("http://inside.example/", "http://127.0.0.1/"):
                with pytest.raises(OutboundRefusedError):
                    await client.get(url)

    assert proxy.seen == []


async def test_a_listed_host_is_reached_beside_the_proxy(make):
    async with loopback() as proxy, loopback() as site:
        policy = OutboundPolicy(proxy=f"http://127.0.0.1:{proxy.port}", allowed_hosts=["127.0.0.1"])
        async with make(policy) as client:
            assert (await client.get(site.url)).status_code == 200

    assert proxy.seen == []
    assert len(site.seen) == 1


async def test_a_name_that_only_the_proxy_knows_is_left_to_it(make):
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError

    async with loopback() as proxy:
        async with make(OutboundPolicy(proxy=f"http://127.0.0.1:{proxy.port}", resolve=resolve)) as client:
            assert (await client.get("http://only-there.example/")).status_code == 200

    assert len(proxy.seen) == 1


# --- redirects


def to(location: str, status: int = 302) -> Callable[[Seen], Answer]:
    return lambda seen: Answer(status, b"", {"location": location})


SECRETS = {"authorization": "Bearer s", "x-api-key": "s", "cookie": "a=b", "accept": "text/x"}


async def test_a_redirect_is_not_followed_unless_asked(make):
    async with loopback(to("/there")) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"])) as client:
            response = await client.get(site.url)

    assert response.status_code == 302
    assert len(site.seen) == 1


async def test_a_redirect_within_the_origin_keeps_its_credentials(make):
    def answer(seen: Seen) -> Answer:
        return Answer(302, b"", {"location": "/there"}) if seen.target == "/" else Answer()

    async with loopback(answer) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"])) as client:
            response = await client.get(site.url, headers=SECRETS, follow_redirects=True)

    assert response.text == "hello"
    assert [seen.target for seen in site.seen] == ["/", "/there"]
    assert site.seen[1].headers["x-api-key"] == "s"
    assert [step.status_code for step in response.history] == [302]


async def test_a_redirect_to_another_origin_carries_no_credentials(make):
    async with loopback() as other, loopback(to(f"{other.url}/there")) as site:
        policy = OutboundPolicy(allowed_hosts=["127.0.0.1"])
        async with make(policy, follow_redirects=True, auth=("user", "secret")) as client:
            assert (await client.get(site.url, headers={"x-api-key": "s", "accept": "text/x"})).text == "hello"

    assert site.seen[0].headers["authorization"].startswith("Basic ")
    arrived = other.seen[0].headers
    assert not {"authorization", "x-api-key", "cookie"} & set(arrived)
    assert arrived["accept"] == "text/x"
    assert arrived["host"] == f"127.0.0.1:{other.port}"


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest", "http://10.0.0.1/", "http://a:b@127.0.0.1/"])
async def test_a_redirect_is_checked_like_a_request(make, location):
    async with loopback(to(location)) as site:
        async with make(OutboundPolicy(allowed_hosts=[f"127.0.0.1:{site.port}"])) as client:
            with pytest.raises(OutboundRefusedError):
                await client.get(site.url, follow_redirects=True)


async def test_a_body_is_not_redirected_to_another_origin(make):
    async with loopback() as other, loopback(to(f"{other.url}/there", 307)) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"])) as client:
            with pytest.raises(OutboundRefusedError, match="another origin"):
                await client.post(site.url, json={"secret": 1}, follow_redirects=True)

    assert other.seen == []


async def test_the_fourth_redirect_is_refused(make):
    async with loopback(to("/again")) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"])) as client:
            with pytest.raises(OutboundRefusedError, match="more than 3 redirects"):
                await client.get(site.url, follow_redirects=True)

    assert len(site.seen) == 4


# --- limits


async def test_an_answer_over_the_limit_is_not_read_to_its_end(make):
    async with loopback(lambda seen: Answer(body=b"x" * 3000)) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"]), max_response_bytes=2999) as client:
            with pytest.raises(OutboundTooLargeError):
                await client.get(site.url)
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"]), max_response_bytes=3000) as client:
            assert len((await client.get(site.url)).content) == 3000


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", lambda data: zlib.compress(data, wbits=-15))],
)
async def test_compressed_answers_are_read(make, encoding, pack):
    text = bytes(range(256)) * 1000

    async with loopback(lambda seen: Answer(body=pack(text), headers={"content-encoding": encoding})) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"])) as client:
            response = await client.get(site.url)

    assert response.content == text
    assert site.seen[0].headers["accept-encoding"] == "gzip, deflate"


async def test_the_limit_counts_what_was_decompressed_and_a_bomb_does_not_fill_the_memory(make):
    bomb = gzip.compress(bytes(50 * 1024 * 1024))

    async with loopback(lambda seen: Answer(body=bomb, headers={"content-encoding": "gzip"})) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"]), max_response_bytes=1024 * 1024) as client:
            tracemalloc.start()
            try:
                with pytest.raises(OutboundTooLargeError):
                    await client.get(site.url)
                _, most = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()

    assert most < 8 * 1024 * 1024


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
async def test_a_compression_that_was_not_asked_for_is_refused(make, encoding):
    async with loopback(lambda seen: Answer(headers={"content-encoding": encoding})) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"])) as client:
            with pytest.raises(OutboundRefusedError, match="compressed"):
                await client.get(site.url)


async def test_broken_compression_is_refused(make):
    async with loopback(lambda seen: Answer(body=b"no gzip", headers={"content-encoding": "gzip"})) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"])) as client:
            with pytest.raises(OutboundRefusedError, match="broken"):
                await client.get(site.url)


async def test_read_bounded_reads_a_streamed_answer_up_to_its_own_limit(make):
    async with loopback(lambda seen: Answer(body=b"x" * 100)) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"]), max_response_bytes=None) as client:
            async with client.stream("GET", site.url) as response:
                assert await read_bounded(response, 100) == b"x" * 100
            async with client.stream("GET", site.url) as response:
                with pytest.raises(OutboundTooLargeError):
                    await read_bounded(response, 99)
                assert response.is_closed


async def test_a_request_that_takes_too_long_as_a_whole_is_ended(make):
    async with loopback(lambda seen: Answer(never=True)) as site:
        policy = OutboundPolicy(allowed_hosts=["127.0.0.1"])
        async with make(policy, timeout=30, total_seconds=0.1) as client:
            with pytest.raises(OutboundTimeoutError):
                await client.get(site.url)


async def test_a_step_that_takes_too_long_is_an_error_of_the_library(make, errors):
    async with loopback(lambda seen: Answer(never=True)) as site:
        async with make(OutboundPolicy(allowed_hosts=["127.0.0.1"]), timeout=0.1) as client:
            with pytest.raises(errors.ReadTimeout):
                await client.get(site.url)


# --- the settings


@pytest.mark.parametrize(
    "entry", ["a b", "host:0", "host:http", "host:65536", "http://host", "*.example", "-a.example"]
)
def test_an_entry_that_cannot_be_read_is_named_with_its_setting(entry):
    with pytest.raises(OutboundPolicyError, match=r"^OUTBOUND_ALLOWED_HOSTS: "):
        OutboundPolicy(allowed_hosts=[entry])


@pytest.mark.parametrize("proxy", ["socks5://u:S3cret@h:1", "u:S3cret@h:1", "http://u:S3cret@h:x", "http://"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(proxy):
    with pytest.raises(OutboundPolicyError, match=r"^OUTBOUND_PROXY: ") as caught:
        OutboundPolicy(proxy=proxy)

    assert "S3cret" not in str(caught.value)


def test_a_certificate_file_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(OutboundPolicyError, match=r"^OUTBOUND_CA_FILE: "):
            OutboundPolicy(ca_file=str(tmp_path / name))


@pytest.mark.parametrize("network", ["10.0.0.0/8", "fd00::/8"])
def test_a_network_of_the_settings_opens_its_addresses(network):
    inside = next(ipaddress.ip_network(network).hosts())
    policy = OutboundPolicy(allowed_hosts=[network], resolve=answers(inside_example=str(inside)))

    assert asyncio.run(policy.route("inside.example", 443)).exempt
