"""What a guardrail policy is, and what a check of a text came to: values only."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

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
    return {}
