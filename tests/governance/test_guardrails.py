# ruff: noqa: RUF001 - characters that look alike are what this is about
"""What guardrails find in whole texts: what hides does not get past, what is ordinary passes."""

from __future__ import annotations

import unicodedata

import pytest

from tests.governance.hostile_corpus import (
    BENIGN,
    BENIGN_DOCUMENTS,
    DISGUISED_KEYWORDS,
    INJECTIONS,
    KEYWORDS,
    PERSONAL,
)
from tests.governance.policies import policy
from tools.governance.guardrails.gate import _ONE_FOR_ONE
from tools.governance.guardrails.normal_form import FOLDED, PLAIN
from tools.governance.guardrails.policy import PII_CLASSES, Action, PolicyKind, Stage, check_settings
from tools.governance.guardrails.screen import Guardrails

EVERYTHING = Guardrails.compiled(
    [
        policy("keywords", {"keywords": KEYWORDS}, Action.BLOCK),
        policy("pii", {"classes": list(PII_CLASSES)}, Action.REDACT),
        policy("injection", {}, Action.BLOCK, stages=[Stage.TOOL_RESULT, Stage.REMOTE_ANSWER]),
    ]
)


@pytest.mark.parametrize("text", DISGUISED_KEYWORDS.values(), ids=DISGUISED_KEYWORDS)
def test_a_disguised_keyword_is_found(text: str) -> None:
    checked = EVERYTHING.check(Stage.USER_INPUT, text)
    assert checked.blocked is not None and checked.blocked.category == "keyword"


@pytest.mark.parametrize("category", PERSONAL)
def test_personal_data_and_secrets_are_redacted_and_shown_nowhere(category: str) -> None:
    rules = Guardrails.compiled([policy("pii", {"classes": [category]}, Action.REDACT)])
    for text in PERSONAL[category]:
        checked = rules.check(Stage.OUTPUT, text)
        assert [finding.category for finding in checked.findings] == [category], text
        excerpt = checked.findings[0].excerpt
        assert "**" in excerpt and not any(
            part in excerpt for part in text.split() if len(part) > 3 and part.isalnum() and part != "characters"
        ), text
        left = "".join(c for c in unicodedata.normalize("NFKC", checked.text) if c.isalnum())
        secret = "".join(c for c in unicodedata.normalize("NFKC", text) if c.isalnum())
        assert secret not in left, text


@pytest.mark.parametrize("text", INJECTIONS)
def test_orders_in_results_of_tools_are_found(text: str) -> None:
    checked = EVERYTHING.check(Stage.TOOL_RESULT, text)
    assert checked.blocked is not None and checked.blocked.category == "injection"
    assert not [
        finding for finding in EVERYTHING.check(Stage.USER_INPUT, text).findings if finding.category == "injection"
    ]


@pytest.mark.parametrize("text", BENIGN)
def test_ordinary_output_passes_unchanged(text: str) -> None:
    checked = EVERYTHING.check(Stage.OUTPUT, text)
    assert checked.findings == ()
    assert checked.text == text


@pytest.mark.parametrize("text", BENIGN_DOCUMENTS)
def test_ordinary_documents_are_no_injection(text: str) -> None:
    assert EVERYTHING.check(Stage.TOOL_RESULT, text).findings == ()


def test_json_is_redacted_in_keys_strings_and_long_numbers_and_keeps_its_form() -> None:
    value = {"jane@example.com": ["ok", {"card": 4111111111111111}], "john@example.com": True, "n": 12, "x": None}
    redacted, findings = EVERYTHING.check_json(Stage.TOOL_ARGUMENTS, value)
    assert redacted == {"[e-mail]": ["ok", {"card": "[card number]"}], "[e-mail] 2": True, "n": 12, "x": None}
    assert [finding.category for finding in findings] == ["email", "card", "email"]
    assert EVERYTHING.check_json(Stage.TOOL_ARGUMENTS, {"q": "a bomb"})[1][0].policy.action is Action.BLOCK


def test_findings_say_where_and_by_which_version_of_a_policy() -> None:
    [finding] = EVERYTHING.check(Stage.USER_INPUT, "ＡＢ a bo\u200bmb!").findings
    assert "ＡＢ a bo\u200bmb!"[finding.start : finding.end] == "bo\u200bmb"
    assert (finding.policy.policy_version, finding.stage) == ("keywords:1:" + "d" * 12, Stage.USER_INPUT)


def test_warnings_and_questions_leave_the_text_as_it_is() -> None:
    rules = Guardrails.compiled(
        [
            policy("keywords", {"keywords": ["plutonium"]}, Action.ASK, stages=[Stage.USER_INPUT]),
            policy("length", {"max_characters": 5}, Action.WARN, stages=[Stage.USER_INPUT]),
        ]
    )
    checked = rules.check(Stage.USER_INPUT, "some plutonium   please")
    assert checked.text == "some plutonium   please" and checked.blocked is None
    assert checked.asks is not None and [f.category for f in checked.findings] == ["keyword", "length"]
    assert rules.gate() is None


def test_keywords_match_whole_words_unless_told_otherwise() -> None:
    words = Guardrails.compiled([policy("keywords", {"keywords": ["bar"]}, Action.REDACT)])
    anywhere = Guardrails.compiled([policy("keywords", {"keywords": ["bar"], "match": "anywhere"}, Action.REDACT)])
    assert words.check(Stage.OUTPUT, "foobarbaz bar").text == "foobarbaz [removed]"
    assert anywhere.check(Stage.OUTPUT, "foobarbaz bar").text == "[removed] [removed]"


def test_patterns_see_the_normal_form() -> None:
    rules = Guardrails.compiled([policy("patterns", {"patterns": [r"Café \d{3}"]}, Action.REDACT)])
    assert rules.check(Stage.OUTPUT, "in Cafe\u0301 １２３ and Café\u00a0123").text == "in [removed] and [removed]"


@pytest.mark.parametrize(
    ("kind", "action", "settings", "field"),
    [
        ("patterns", "block", {"patterns": ["secret.*"]}, "patterns"),
        ("patterns", "block", {"patterns": ["x{1,65}"]}, "patterns"),
        ("patterns", "block", {"patterns": ["(a|b)\\1"]}, "patterns"),
        ("patterns", "block", {"patterns": ["(?=a)b"]}, "patterns"),
        ("patterns", "block", {"patterns": ["a?"]}, "patterns"),
        ("patterns", "block", {"patterns": ["("]}, "patterns"),
        ("patterns", "block", {"patterns": ["[[:alpha:]]x"]}, "patterns"),
        ("patterns", "block", {"patterns": []}, "patterns"),
        ("patterns", "block", {"patterns": ["x"] * 101}, "patterns"),
        ("keywords", "block", {"keywords": ["x" * 65]}, "keywords"),
        ("keywords", "block", {"keywords": ["\u200b"]}, "keywords"),
        ("keywords", "block", {"keywords": ["x"], "match": "regex"}, "match"),
        ("keywords", "ask", {"keywords": ["x"]}, "action"),
        ("pii", "redact", {"classes": ["name"]}, "classes"),
        ("length", "redact", {"max_characters": 10}, "action"),
        ("length", "block", {"max_characters": True}, "max_characters"),
        ("injection", "block", {}, "stages"),
    ],
)
def test_settings_that_cannot_hold_on_output_are_refused(
    kind: str, action: str, settings: dict[str, object], field: str
) -> None:
    assert list(check_settings(PolicyKind(kind), {Stage.OUTPUT}, Action(action), settings)) == [field]


def test_what_output_cannot_have_other_stages_may_and_sentences_can_be_held() -> None:
    unbounded = {"patterns": ["secret.*"]}
    assert check_settings(PolicyKind.PATTERNS, {Stage.TOOL_RESULT}, Action.BLOCK, unbounded) == {}
    assert (
        check_settings(PolicyKind.PATTERNS, {Stage.OUTPUT}, Action.BLOCK, {**unbounded, "whole_sentences": True}) == {}
    )
    assert (
        check_settings(PolicyKind.PATTERNS, {Stage.OUTPUT}, Action.BLOCK, {"patterns": [r"(?i)\bstraße \d{1,4}\b"]})
        == {}
    )
    assert "stages" in check_settings(PolicyKind.PII, set(), Action.BLOCK, {"classes": ["email"]})


def test_characters_taken_for_one_for_one_are() -> None:
    characters = [chr(code) for code in range(0x110000) if _ONE_FOR_ONE.fullmatch(chr(code))]
    assert len(characters) > 20_000
    assert all(len(PLAIN[ord(character)]) == 1 for character in characters)
    assert all(len(FOLDED[ord(PLAIN[ord(character)])]) == 1 for character in characters)
