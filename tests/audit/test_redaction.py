"""What reaches a payload, and what is taken out on the way."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.redaction import CUT, MAX_PAYLOAD_BYTES, MAX_STRING_BYTES, REDACTED, clean, redact_query, redact_query_string

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=40,
)


@given(st.dictionaries(st.text(), anything))
def test_whatever_the_details_are_the_payload_is_bounded_json_without_nuls(details):
    cleaned = clean(details)
    written = orjson.dumps(cleaned, option=orjson.OPT_SORT_KEYS)

    assert len(written) <= MAX_PAYLOAD_BYTES
    assert b"\\u0000" not in written.replace(b"\\\\", b"")  # a backslash that is written out, and then u0000, is no NUL
    assert orjson.loads(written) == cleaned


@pytest.mark.parametrize(
    "name",
    [
        "password", "Authorization", "X-Api-Key", "apiKey", "api_key", "access_token", "accessToken", "refreshToken",
        "client_secret", "Cookie", "Set-Cookie", "private_key", "OPENAI_API_KEY", "credentials", "jwt",
    ],
)  # fmt: skip
def test_the_value_under_a_secret_name_is_redacted_at_any_depth(name):
    cleaned = clean({name: "s3cr3t", "outer": [{name: {"inner": "s3cr3t"}}]})

    assert "s3cr3t" not in orjson.dumps(cleaned).decode()
    assert cleaned[name] == REDACTED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_tokens", 12),
        ("tokens", {"input": 3, "output": 4, "cached": None}),
        ("keyboard", "qwerty"),
        ("secretary", "Miss Lemon"),
        ("location", "London"),
        ("authored_by", "Ada"),
    ],
)
def test_what_only_resembles_a_secret_is_kept(name, value):
    assert clean({name: value}) == {name: value}


def test_secrets_within_json_text_and_authorization_values_are_redacted():
    cleaned = clean(
        {"arguments": '{"city": "London", "api_key": "s3cr3t"}', "log": "sent Authorization: Bearer s3cr3t.s3cr3t"}
    )

    assert orjson.loads(cleaned["arguments"]) == {"city": "London", "api_key": REDACTED}
    assert "s3cr3t" not in cleaned["log"]


def test_json_text_without_secrets_stays_as_it_was_written():
    written = '{ "city" :  "London" }'

    assert clean({"arguments": written}) == {"arguments": written}


def test_a_long_string_is_cut_at_a_character_and_marked():
    cut = clean({"text": "ü" * MAX_STRING_BYTES})["text"]

    assert cut.endswith(CUT)
    assert set(cut.removesuffix(CUT)) == {"ü"}
    assert len(cut.removesuffix(CUT).encode()) <= MAX_STRING_BYTES


def test_too_many_details_are_cut_and_marked_and_the_first_are_kept():
    cleaned = clean({f"field_{number}": "x" * 4096 for number in range(100)})

    assert cleaned["field_0"] == "x" * 4096
    assert CUT in cleaned
    assert len(orjson.dumps(cleaned)) <= MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    "details", [{"text": "\x01" * 100_000}, {"rows": [[1.5] * 100] * 1000}, {"a": ["\0"] * 99_999}]
)
def test_details_that_grow_when_written_stay_within_the_bound(details):
    assert len(orjson.dumps(clean(details))) <= MAX_PAYLOAD_BYTES


def test_numbers_that_json_cannot_hold_exactly_become_text():
    cleaned = clean({"big": 2**64, "nan": float("nan"), "infinite": float("inf"), "fits": 2**53 - 1})

    assert cleaned == {"big": str(2**64), "nan": "nan", "infinite": "inf", "fits": 2**53 - 1}


def test_details_nested_without_end_are_cut():
    nested: list = []
    nested.append(nested)

    assert CUT in orjson.dumps(clean({"loop": nested})).decode()


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("/ag-ui/events?user_message=I+am+ill", f"/ag-ui/events?user_message={REDACTED}"),
        ("/ag-ui/events?user_message=x&protocol=ag-ui", f"/ag-ui/events?user_message={REDACTED}&protocol=ag-ui"),
        ("https://ada:pw@example.org/a?token=1#frag", f"https://example.org/a?token={REDACTED}"),
        ("/a?justasecret", f"/a?{REDACTED}"),
        ("/a?we ird=1", f"/a?{REDACTED}"),
        ("/plain", "/plain"),
        ("http://[broken", REDACTED),
    ],
)
def test_the_values_of_a_query_are_redacted(url, redacted):
    assert redact_query(url) == redacted


def test_a_raw_query_string_is_redacted_from_bytes():
    assert redact_query_string(b"user_message=\xff&after=7") == f"user_message={REDACTED}&after=7"
