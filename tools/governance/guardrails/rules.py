"""The policies of one stage, compiled, and what they find in a window of text."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from typing import Final

from tools.governance.guardrails.addresses import address_at
from tools.governance.guardrails.injection import HIDDEN_TEXT, injection_spans
from tools.governance.guardrails.matches import Match, Rule, Tail, match_of
from tools.governance.guardrails.normal_form import KINDS
from tools.governance.guardrails.numbers import (
    card_end,
    groups_at,
    iban_at,
    iban_starts,
    number_starts,
    phone_end,
    unfinished_number,
)
from tools.governance.guardrails.pattern_reading import read_pattern
from tools.governance.guardrails.patterns import Patterns
from tools.governance.guardrails.policy import Policy, PolicyKind, Stage
from tools.governance.guardrails.words import HELD_RUN, Words

RUN: Final = string.ascii_letters + string.digits + "_.%+@'(-"
_DIGIT: Final = re.compile("[0-9]")
_DIGIT_OR_AT: Final = re.compile("[0-9@]")
# Where an address, a number or an IBAN may be.
_WORTH_A_LOOK: Final = re.compile("@|(?<![A-Za-z0-9])(?:[0-9]|[A-Za-z]{2}[0-9]{2})")


class StageRules:
    """What is looked for at one stage. Raises PatternError for a pattern that `check_settings` would have refused."""

    def __init__(self, stage: Stage, policies: Iterable[Policy]) -> None:
        self.stage = stage
        self.words = Words()
        self.patterns = Patterns()
        self.lengths: list[tuple[int, Rule]] = []
        self._injection: list[Rule] = []
        self._by_class: dict[str, list[Rule]] = {}
        self._count = 0
        for policy in policies:
            self._add(policy)
        self.words.compile()
        self.patterns.compile(streamed=stage is Stage.OUTPUT)
        self.is_empty = not self._count
        self._addresses = self._by_class.get("email", [])
        self._ibans = self._by_class.get("iban", [])
        self._phones = self._by_class.get("phone", [])
        self._cards = self._by_class.get("card", [])
        self._numbers = [*self._ibans, *self._phones, *self._cards]
        self._looks_closer = bool(self._numbers or self._addresses)
        self.is_quick = stage is Stage.OUTPUT and self.patterns.is_empty

    def is_harmless(self, plain: str, folded: str, first: int) -> bool:
        """Whether nothing can begin in a printable window but in its last word; only where `is_quick`."""
        if self.words.any_in(folded):
            return False
        if not self._looks_closer or _DIGIT_OR_AT.search(plain, first) is None:
            return True
        return _WORTH_A_LOOK.search(plain, first) is None

    def find(self, plain: str, folded: str, first: int, *, final: bool, into: list[Match]) -> int:
        """Everything but patterns and what is looked for in whole texts; returns where the earliest begins that is still open."""
        earliest = self.words.find(plain, folded, first, final=final, into=into)
        if self._addresses and "@" in plain:
            earliest = min(earliest, self._find_addresses(plain, first, final, into))
        if self._numbers and _DIGIT.search(plain, first):
            earliest = min(earliest, self._find_numbers(plain, first, final, into))
        return earliest

    def find_in_whole(self, plain: str, folded: str, original: str, starts: Sequence[int], into: list[Match]) -> None:
        """What is looked for in whole texts only. `starts` says where each plain character stands in the original."""
        for rule in self._injection:
            into.extend(match_of(rule, *span, Tail.WORD) for span in injection_spans(plain, folded))
            for hidden in () if original.isascii() else HIDDEN_TEXT.finditer(original):
                place = max(sum(start < hidden.start() for start in starts) - 1, 0)
                into.append(match_of(rule, place, place + 1))

    def unfinished_run(self, plain: str, first: int) -> int:
        """Where the unfinished word at the end begins, or the run of what addresses and keys are made of."""
        run = plain.rstrip(RUN)
        start = len(run)
        if start > first and run[-1] > "\x7f":
            earliest = max(first, len(plain) - HELD_RUN)
            while start > earliest and (KINDS[plain[start - 1]] == 1 or plain[start - 1] in RUN):
                start -= 1
        return max(start, len(plain) - HELD_RUN, first)

    def _add(self, policy: Policy) -> None:
        settings = policy.settings
        if policy.kind is PolicyKind.KEYWORDS:
            anywhere = settings.get("match") == "anywhere"
            self.words.add_keywords(self._rule(policy, "keyword"), settings["keywords"], anywhere=anywhere)
        elif policy.kind is PolicyKind.PATTERNS:
            patterns = [read_pattern(pattern) for pattern in settings["patterns"]]
            whole = bool(settings.get("whole_sentences"))
            self.patterns.add(self._rule(policy, "pattern"), patterns, whole_sentences=whole)
        elif policy.kind is PolicyKind.PII:
            for name in settings["classes"]:
                rule = self._rule(policy, name)
                self._by_class.setdefault(name, []).append(rule)
                self.words.add_tokens(rule)
        elif policy.kind is PolicyKind.INJECTION:
            self._injection.append(self._rule(policy, "injection"))
        elif policy.kind is PolicyKind.LENGTH:
            self.lengths.append((int(settings["max_characters"]), self._rule(policy, "length")))

    def _rule(self, policy: Policy, category: str) -> Rule:
        self._count += 1
        return Rule(self._count, policy, category)

    def _find_addresses(self, plain: str, first: int, final: bool, into: list[Match]) -> int:
        earliest = len(plain)
        at_sign = plain.find("@", first)
        while at_sign >= 0:
            found = address_at(plain, at_sign, final=final)
            if found and found[0] >= first:
                start, end = found
                if end < 0:
                    earliest = min(earliest, start)
                else:
                    into.extend(match_of(rule, start, end, Tail.ADDRESS) for rule in self._addresses)
            at_sign = plain.find("@", at_sign + 1)
        return earliest

    def _find_numbers(self, plain: str, first: int, final: bool, into: list[Match]) -> int:
        earliest = len(plain) if final else unfinished_number(plain, first)
        if self._phones or self._cards:
            for start in number_starts(plain, first):
                if start >= earliest:
                    break
                groups = groups_at(plain, start)
                self._take_number(self._cards, start, card_end(plain, start, groups) if self._cards else None, into)
                self._take_number(self._phones, start, phone_end(plain, start, groups) if self._phones else None, into)
        if self._ibans:
            for start in iban_starts(plain, first):
                end = iban_at(plain, start, final=final)
                if end == -1:
                    earliest = min(earliest, start)
                else:
                    self._take_number(self._ibans, start, end, into)
        return earliest

    def _take_number(self, rules: list[Rule], start: int, end: int | None, into: list[Match]) -> None:
        if end is not None:
            into.extend(match_of(rule, start, end) for rule in rules)
