"""What a guardrail policy is, and what a check of a text came to: values only."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from tools.governance.guardrails.normal_form import MAX_WINDOW, WORD_REACH, keyword_form
from tools.governance.guardrails.pattern_reading import PatternError, read_pattern

MAX_KEYWORDS: Final = 5000
MAX_PATTERNS: Final = 100
LONGEST_TEXT: Final = 500  # characters of one keyword or pattern
MAX_CHARACTERS: Final = 10_000_000
PII_CLASSES: Final = ("email", "phone", "card", "iban", "api_key", "private_key")
DEFAULT_MESSAGE: Final = "I cannot go on with this: a rule of this service does not allow it."


class Stage(StrEnum):
    """Where text is checked."""

    USER_INPUT = "user_input"
    TOOL_ARGUMENTS = "tool_arguments"
    TOOL_RESULT = "tool_result"
    REMOTE_ANSWER = "remote_answer"
    OUTPUT = "output"


class Action(StrEnum):
    """What is done about a match. `ask`: a person must decide."""

    BLOCK = "block"
    REDACT = "redact"
    WARN = "warn"
    ASK = "ask"


class PolicyKind(StrEnum):
    """What a policy looks for. `model` is not judged here: it asks a moderation endpoint."""

    KEYWORDS = "keywords"
    PATTERNS = "patterns"
    PII = "pii"
    INJECTION = "injection"
    LENGTH = "length"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Policy:
    """One version of a policy. `message` is what the user reads when it blocks; empty: `DEFAULT_MESSAGE`.

    `settings` by kind:
    keywords `{"keywords": [...], "match": "word" | "anywhere"}`; patterns `{"patterns": [...], "whole_sentences": bool}`;
    pii `{"classes": [some of PII_CLASSES]}`; injection `{}`; length `{"max_characters": n}`; model: not read here.
    """

    name: str
    version: int
    digest: str
    kind: PolicyKind
    stages: frozenset[Stage]
    action: Action
    settings: Mapping[str, Any]
    message: str = ""

    @property
    def policy_version(self) -> str:
        """What the audit trail names as the deciding version: name, number and the digest's beginning."""
        return f"{self.name}:{self.version}:{self.digest[:12]}"

    @property
    def safe_text(self) -> str:
        """What the user reads in place of what was blocked."""
        return self.message or DEFAULT_MESSAGE


@dataclass(frozen=True, slots=True)
class Finding:
    """A match of a policy, from `start` to `end` in the text as it was given (in JSON: in the string that holds it).

    `category` says what was found (`keyword`, `pattern`, a class of PII, `injection`, `length`). `excerpt` is masked: it never shows
    what was found. Of matches that go on for long, `end` is where they were certain.
    """

    policy: Policy
    stage: Stage
    category: str
    start: int
    end: int
    excerpt: str


@dataclass(frozen=True, slots=True)
class Checked:
    """A text after its check: redacted, and cut before the first match that blocks."""

    text: str
    findings: tuple[Finding, ...]

    @property
    def blocked(self) -> Finding | None:
        """The match that blocks, if one does; nothing after it was looked at."""
        return self._first(Action.BLOCK)

    @property
    def asks(self) -> Finding | None:
        """The first match about which a person must decide, if there is one."""
        return self._first(Action.ASK)

    def _first(self, action: Action) -> Finding | None:
        return next((finding for finding in self.findings if finding.policy.action is action), None)


def check_settings(
    kind: PolicyKind, stages: Set[Stage], action: Action, settings: Mapping[str, Any]
) -> dict[str, list[str]]:
    """The problems of a policy by field (`stages`, `action`, or a key of the settings); empty when it can be used."""
    problems: dict[str, list[str]] = {}
    if not stages:
        problems.setdefault("stages", []).append("Choose at least one place where it is checked.")
    if Stage.OUTPUT in stages and action is Action.ASK:
        problems.setdefault("action", []).append("What a model said cannot wait for a person: block, redact or warn.")
    if kind is PolicyKind.INJECTION and Stage.OUTPUT in stages:
        problems.setdefault("stages", []).append(
            "Injection markers are looked for in what comes in, as a whole: not in streamed output."
        )
    if kind in (PolicyKind.LENGTH, PolicyKind.MODEL) and action is Action.REDACT:
        problems.setdefault("action", []).append("There is no place in the text to redact: block, warn or ask.")
    check = _CHECKS.get(kind)
    if check is not None:
        check(settings, Stage.OUTPUT in stages, problems)
    unknown = set(settings) - _SETTINGS[kind] if kind in _SETTINGS else set()
    for name in sorted(unknown):
        problems.setdefault(name, []).append("There is no such setting for this kind of policy.")
    return problems


def _check_keywords(settings: Mapping[str, Any], on_output: bool, problems: dict[str, list[str]]) -> None:
    anywhere = settings.get("match", "word") == "anywhere"
    if settings.get("match", "word") not in ("word", "anywhere"):
        problems.setdefault("match", []).append("It is `word` or `anywhere`.")
    longest = MAX_WINDOW if not anywhere else MAX_WINDOW - WORD_REACH
    for keyword in _texts(settings, "keywords", MAX_KEYWORDS, problems):
        form = keyword_form(keyword)
        if not form:
            problems["keywords"].append(f"{_shown(keyword)}: nothing of it is visible.")
        elif on_output and len(form) > longest:
            where = "where it may stand within a word" if anywhere else "on output"
            problems["keywords"].append(f"{_shown(keyword)} has more than {longest} characters, too many {where}.")
        elif len(form) > LONGEST_TEXT:
            problems["keywords"].append(f"{_shown(keyword)} has more than {LONGEST_TEXT} characters.")
    _drop_empty(problems, "keywords")


def _check_patterns(settings: Mapping[str, Any], on_output: bool, problems: dict[str, list[str]]) -> None:
    whole = settings.get("whole_sentences", False)
    if not isinstance(whole, bool):
        problems.setdefault("whole_sentences", []).append("It is true or false.")
    for written in _texts(settings, "patterns", MAX_PATTERNS, problems):
        if len(written) > LONGEST_TEXT:
            problems["patterns"].append(f"{_shown(written)} has more than {LONGEST_TEXT} characters.")
            continue
        try:
            pattern = read_pattern(written)
            if on_output and not whole:
                pattern.check_streamed()
        except PatternError as error:
            problems["patterns"].append(f"{_shown(written)}: {error}")
    _drop_empty(problems, "patterns")


def _check_classes(settings: Mapping[str, Any], on_output: bool, problems: dict[str, list[str]]) -> None:
    for name in _texts(settings, "classes", len(PII_CLASSES), problems):
        if name not in PII_CLASSES:
            problems["classes"].append(f"{_shown(name)} is none of {', '.join(PII_CLASSES)}.")
    _drop_empty(problems, "classes")


def _check_length(settings: Mapping[str, Any], on_output: bool, problems: dict[str, list[str]]) -> None:
    most = settings.get("max_characters")
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MAX_CHARACTERS:
        problems.setdefault("max_characters", []).append(f"It is a whole number from 1 to {MAX_CHARACTERS}.")


def _texts(settings: Mapping[str, Any], name: str, most: int, problems: dict[str, list[str]]) -> list[str]:
    """The texts of a setting as far as they are; makes room for problems with single ones."""
    found = problems.setdefault(name, [])
    value = settings.get(name)
    if not isinstance(value, list | tuple) or not value:
        found.append("Give at least one.")
        return []
    if len(value) > most:
        found.append(f"There are {len(value)}, at most {most} are allowed.")
        return []
    if not all(isinstance(text, str) and text.strip() for text in value):
        found.append("Each must be a text that is not empty.")
    return [text for text in value if isinstance(text, str) and text.strip()]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _drop_empty(problems: dict[str, list[str]], name: str) -> None:
    if not problems[name]:
        del problems[name]


_CHECKS: Final = {
    PolicyKind.KEYWORDS: _check_keywords,
    PolicyKind.PATTERNS: _check_patterns,
    PolicyKind.PII: _check_classes,
    PolicyKind.LENGTH: _check_length,
}
_SETTINGS: Final = {
    PolicyKind.KEYWORDS: {"keywords", "match"},
    PolicyKind.PATTERNS: {"patterns", "whole_sentences"},
    PolicyKind.PII: {"classes"},
    PolicyKind.LENGTH: {"max_characters"},
    PolicyKind.INJECTION: set[str](),
}
