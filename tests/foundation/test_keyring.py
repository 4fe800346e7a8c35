from __future__ import annotations

import base64
import traceback

import pytest

from agentbackend.foundation.keyring import Key, KeyRing, KeyRingError

FIRST, SECOND = b"\x01" * 32, b"\xff" * 48


def written(kid: str, secret: bytes) -> str:
    return f"{kid}:{base64.b64encode(secret).decode()}"


def test_the_first_key_is_active_and_all_can_be_found():
    ring = KeyRing.parse(f"{written('2026-11', FIRST)}, {written('2026-10', SECOND)}")

    assert ring.active == Key("2026-11", FIRST)
    assert ring.get("2026-10") == Key("2026-10", SECOND)
    assert ring.get("2026-09") is None
    assert [key.kid for key in ring] == ["2026-11", "2026-10"]


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_setting_is_an_empty_ring_without_an_active_key(text):
    ring = KeyRing.parse(text)

    assert not ring
    with pytest.raises(KeyRingError, match="empty"):
        _ = ring.active


def test_both_base64_alphabets_and_missing_padding_are_read():
    secret = b"\xfb\xff" * 17
    url_safe = base64.urlsafe_b64encode(secret).decode().rstrip("=")

    assert KeyRing.parse(f"k:{url_safe}").active.secret == secret
    assert KeyRing.parse(written("k", secret)).active.secret == secret


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"{written('a', FIRST)},{'S' * 44}", "entry 2: expected kid:base64"),
        (f":{'S' * 44}", "entry 1: the key id"),
        (f"{written('a', FIRST)},b b:{'S' * 44}", "entry 2: the key id"),
        (f"{'k' * 65}:{'S' * 44}", "entry 1: the key id"),
        ("mine:S3cret*value", "entry 1 ('mine'): the key is not base64"),
        ("mine:S3cretS3cretX", "entry 1 ('mine')"),
        (written("short", b"S" * 31), "entry 1 ('short'): 31 bytes are too few, the least is 32"),
        (f"{written('a', FIRST)},{written('a', SECOND)}", "entry 2: the key id 'a' stands in the ring twice"),
        (f"{written('a', FIRST)},", "entry 2"),
    ],
)
def test_an_error_names_the_entry_and_never_its_value(text, named):
    with pytest.raises(KeyRingError) as caught:
        KeyRing.parse(text)

    shown = "".join(traceback.format_exception(caught.value, limit=0))
    assert named in str(caught.value)
    for entry in text.split(","):
        secret = entry.rpartition(":")[2]
        assert not secret or secret not in shown


def test_a_ring_and_its_keys_do_not_show_their_secrets():
    ring = KeyRing.parse(written("visible", b"S" * 32))

    assert "visible" in repr(ring)
    for shown in (repr(ring), repr(ring.active), str(ring.active)):
        assert "SSSS" not in shown
        assert base64.b64encode(b"S" * 32).decode() not in shown


def test_the_least_length_can_be_set():
    assert KeyRing.parse(written("k", b"12345678"), minimum_bytes=8).active.secret == b"12345678"
