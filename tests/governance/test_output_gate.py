# ruff: noqa: RUF001 - characters that look alike are what this is about
"""Streamed text: however it is cut, what leaves is the same, it is what a check of the whole text lets through, and it leaves soon."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.governance.hostile_corpus import BENIGN, DISGUISED_KEYWORDS, KEYWORDS, PERSONAL
from tests.governance.policies import policy
from tools.governance.guardrails.gate import OutputGate
from tools.governance.guardrails.policy import PII_CLASSES, Action, Finding, Policy, PolicyKind, Stage, check_settings
from tools.governance.guardrails.screen import Guardrails

PII = {"classes": list(PII_CLASSES)}
ON_OUTPUT = [Stage.OUTPUT]


def rules(*policies: Policy) -> Guardrails:
    return Guardrails.compiled(policies)


SETS = {
    "redacted PII": rules(policy("pii", PII, Action.REDACT)),
    "blocked PII": rules(policy("pii", PII, Action.BLOCK)),
    "blocked keywords, redacted PII": rules(policy("keywords", {"keywords": KEYWORDS}), policy("pii", PII, Action.REDACT)),
    "parts of words": rules(
        policy("keywords", {"keywords": ["bomb", "ad wo", "x" * 40], "match": "anywhere"}, Action.REDACT),
        policy("keywords", {"keywords": ["foo", "bad words"]}, Action.BLOCK),
    ),
    "patterns, warnings": rules(
        policy("patterns", {"patterns": [r"\bab{1,4}?c{1,5}\b", r"(?i)secret\s(one|two words)", "[0-9]{3}x$", "aaa"]}, Action.REDACT),
        policy("pii", PII, Action.WARN),
    ),
    "sentences": rules(
        policy("patterns", {"patterns": ["foo.*bar"], "whole_sentences": True}, Action.REDACT, stages=ON_OUTPUT),
        policy("keywords", {"keywords": ["bad word"]}, Action.REDACT),
    ),
    "length": rules(policy("length", {"max_characters": 40}), policy("pii", PII, Action.REDACT)),
}  # fmt: skip

BUILDING_BLOCKS = [
    *DISGUISED_KEYWORDS.values(), *(text for texts in PERSONAL.values() for text in texts), *BENIGN[:8], "bad word", "bad", "words", "foo",
    "bar", "x" * 30, "y" * 70, "abbc", "aaa", "secret", "one", "two words", "123x", "@", "+", "(", "-----", ". ", "! ", " ", "  ", "\n",
    "\n\n", "\t", "\u200b", "\u200b" * 40, "\u0301", "\u00ad", "é", "ß", "ﬁ", "ﷺ", "½", "…", "\ufe0f", "👍", "ｂｏ", "炸", "폭", "\u1111",
    "नमस्ते", "ไทย", "مرحبا", "ς", "İ", "12", "2024", "\x00", " " * 600, "-----END " + "RSA PRIVATE KEY-----",
]  # fmt: skip


def streamed(guardrails: Guardrails, deltas: Sequence[str]) -> tuple[str, OutputGate]:
    gate = guardrails.gate()
    assert gate is not None
    return "".join([*map(gate.feed, deltas), gate.end()]), gate


def cut(text: str, lengths: Sequence[int]) -> list[str]:
    deltas: list[str] = []
    start = place = 0
    while start < len(text):
        length = lengths[place % len(lengths)]
        deltas.append(text[start : start + length])
        start, place = start + length, place + 1
    return deltas


def assert_cut_does_not_matter(name: str, text: str, lengths: Sequence[int]) -> None:
    whole = SETS[name].check(Stage.OUTPUT, text)
    for deltas in (cut(text, lengths), list(text), [text]):
        left, gate = streamed(SETS[name], deltas)
        assert (left, tuple(gate.findings)) == (whole.text, whole.findings)
        assert gate.violation == whole.blocked
        assert gate.feed("more") == gate.end() == "" or whole.blocked is None
    if name != "length":
        assert SETS[name].check(Stage.OUTPUT, whole.text).blocked is None


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Building blocks, whole or in part, with disturbances, and any characters between."""
    pieces: list[str] = []
    for _ in range(draw(st.integers(1, 10))):
        piece = draw(st.sampled_from(BUILDING_BLOCKS) | st.text(max_size=8))
        if draw(st.integers(0, 3)) == 0:
            piece = piece[: draw(st.integers(0, len(piece)))]
        if draw(st.integers(0, 7)) == 0:
            place = draw(st.integers(0, len(piece)))
            piece = piece[:place] + draw(st.sampled_from("\u200b\u00ad\u0301 \n-.")) + piece[place:]
        pieces.append(piece + draw(st.sampled_from(["", "", " "])))
    return "".join(pieces)


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(text=texts(), lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_any_text_cut_in_any_way_leaves_as_the_check_of_the_whole_lets_it(
    name: str, text: str, lengths: list[int]
) -> None:
    assert_cut_does_not_matter(name, text, lengths)


@pytest.mark.parametrize("name", SETS)
def test_every_hostile_text_amid_prose_leaves_as_the_check_of_the_whole_lets_it(name: str) -> None:
    random_number = random.Random(7)
    hostile = [*DISGUISED_KEYWORDS.values(), *(text for texts in PERSONAL.values() for text in texts)]
    for text in hostile:
        lengths = [random_number.randint(1, 6) for _ in range(9)]
        assert_cut_does_not_matter(name, f"Well, {text} and so on. More of it", lengths)


@pytest.mark.parametrize("text", DISGUISED_KEYWORDS.values(), ids=DISGUISED_KEYWORDS)
def test_nothing_of_a_blocked_keyword_leaves_whatever_the_deltas(text: str) -> None:
    left, gate = streamed(SETS["blocked keywords, redacted PII"], list(f"So: {text} and more"))
    assert gate.violation is not None
    violation: Finding = gate.violation
    assert left == f"So: {text}"[: violation.start]
    assert "more" not in left


def test_prose_waits_for_one_word_only() -> None:
    gate = SETS["blocked keywords, redacted PII"].gate()
    assert gate is not None
    left = [
        gate.feed(delta)
        for delta in ("The", " weather", " is", " mild", ",", " said", " the", " project", " manager", ".")
    ]
    assert left == ["", "The ", "weather ", "is ", "mild,", " ", "said ", "the ", "project ", ""]
    assert gate.end() == "manager."


@pytest.mark.parametrize(
    "text", [*BENIGN, "a" * 300, "a.b-" * 80, "1 " * 200, "+49 " * 50, "-" * 200, "x@" * 100, "DE89 1234 " * 30]
)
def test_no_more_than_64_characters_are_held_back(text: str) -> None:
    for name in ("redacted PII", "blocked keywords, redacted PII", "parts of words", "patterns, warnings"):
        gate = SETS[name].gate()
        assert gate is not None
        left = 0
        for given_so_far, character in enumerate(text, 1):
            left += len(gate.feed(character))
            if gate.findings:
                break
            if text.isascii():
                assert given_so_far - left <= 64


def test_runs_of_invisible_characters_are_neither_held_nor_let_through_without_bound() -> None:
    gate = SETS["blocked keywords, redacted PII"].gate()
    assert gate is not None
    gate.feed("bo")
    for _ in range(200):
        assert gate.feed("\u200b" * 100) == ""
    assert len(gate._original) < 200
    assert gate.feed("at ") == "bo" + "\u200b" * 32 + "at "


def test_a_private_key_is_removed_up_to_its_end_and_a_long_token_as_a_whole() -> None:
    key = "-----BEGIN " + "PRIVATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n" * 40 + "-----END PRIVATE KEY-----"
    token = "eyJ" + "hbGciOiJSUzI1NiIs" * 20 + "." + "eyJzdWIiOiIx" * 30 + ".c2ln"
    left, gate = streamed(SETS["redacted PII"], cut(f"Here: {key}\nand {token}. Done.", [3, 1, 11]))
    assert left == "Here: [private key]\nand [API key]. Done."
    assert [finding.category for finding in gate.findings] == ["private_key", "api_key"]


def test_a_rule_for_whole_sentences_holds_them_back_up_to_a_bound() -> None:
    gate = SETS["sentences"].gate()
    assert gate is not None
    assert gate.feed("A foo and") == "" and gate.feed(" a bar. Next") == "A [removed]."
    assert gate.feed(" long" * 500).startswith(" Next long")
    assert gate.end().endswith(" long")


def test_too_long_output_is_cut_where_it_becomes_too_long() -> None:
    left, gate = streamed(SETS["length"], ["12345 "] * 20)
    assert left == ("12345 " * 20)[:40]
    assert gate.violation is not None and gate.violation.category == "length"


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["?", "{1,3}", "{0,2}", "{2}", "{1,2}?", "??"])).map(lambda two: f"(?:{two[0]}){two[1]}"),
        inner.map(lambda pattern: f"(?i:{pattern})"),
    )  # fmt: skip


PATTERNS = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a ]", ".", r"\s", r"\w", r"\b", "$", "^", "ab", "é", "a b"]),
    _combined,
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(
    pattern=PATTERNS,
    action=st.sampled_from([Action.BLOCK, Action.REDACT, Action.WARN]),
    text=st.text("aAbB \ncé\u0301\u200b.", max_size=40),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
)
def test_any_pattern_that_is_accepted_finds_the_same_however_the_text_is_cut(
    pattern: str, action: Action, text: str, lengths: list[int]
) -> None:
    if check_settings(PolicyKind.PATTERNS, {Stage.OUTPUT}, action, {"patterns": [pattern]}):
        return
    guardrails = rules(policy("patterns", {"patterns": [pattern]}, action, stages=ON_OUTPUT))
    whole = guardrails.check(Stage.OUTPUT, text)
    for deltas in (cut(text, lengths), list(text)):
        left, gate = streamed(guardrails, deltas)
        assert (left, tuple(gate.findings)) == (whole.text, whole.findings)
