"""The patterns of a set of rules, searched for in whole or streamed text."""

from __future__ import annotations

import re
from typing import Any, Final

from tools.governance.guardrails.matches import Match, Rule, Tail, match_of
from tools.governance.guardrails.normal_form import MAX_WINDOW, WORD_REACH, word_start
from tools.governance.guardrails.pattern_reading import Pattern, compiled_pattern

MAX_SENTENCE: Final = 2000

_SENTENCE_END: Final = re.compile(r"[.!?][.!?\"')\]]{0,4}(?=\s)|\u3002|\n")


class Patterns:
    """The patterns of a set of rules: those that hold back by character, and those that hold whole sentences."""

    def __init__(self) -> None:
        self._short: list[tuple[Rule, Pattern]] = []
        self._long: list[tuple[Rule, Pattern]] = []
        self._any_short: Any = None
        self._open: Any = None
        self._reach = 0

    def add(self, rule: Rule, patterns: list[Pattern], *, whole_sentences: bool) -> None:
        """Look for patterns."""
        (self._long if whole_sentences else self._short).extend((rule, pattern) for pattern in patterns)

    def compile(self, *, streamed: bool) -> None:
        """Combine them, after everything was added; `streamed`: for text that comes in pieces."""
        if not self._short:
            return
        longest = max(pattern.longest for _, pattern in self._short)
        if streamed:
            for _, pattern in self._short:
                pattern.check_streamed()
        self._reach = min(WORD_REACH, max(0, MAX_WINDOW - longest)) if streamed else WORD_REACH
        self._any_short = compiled_pattern("|".join(f"(?:{pattern.text})" for _, pattern in self._short), checked=False)
        if streamed:
            self._open = compiled_pattern(
                "(?:" + "|".join(f"(?:{pattern.beginnings()})" for _, pattern in self._short) + r")\z", checked=False
            )

    @property
    def is_empty(self) -> bool:
        """Whether there are no patterns."""
        return not self._short and not self._long

    @property
    def hold_sentences(self) -> bool:
        """Whether there are patterns that hold whole sentences."""
        return bool(self._long)

    def find(self, plain: str, first: int, resume: dict[int, int], base: int, *, final: bool, into: list[Match]) -> int:
        """Matches of the short patterns from `first` on; returns where the earliest begins that is still open.

        `resume` says, by place of the pattern and with `base` added, where its last match ended: the next begins after that.
        """
        if not self._short:
            return len(plain)
        earliest = len(plain)
        if not final and self._open is not None:
            tail = max(first, len(plain) - MAX_WINDOW)
            earliest = word_start(plain, self._open.search(plain, tail).start(), first, self._reach)
        if self._any_short.search(plain, first) is None:
            return earliest
        for place, (rule, pattern) in enumerate(self._short):
            for found in pattern.compiled.finditer(plain, max(first, resume.get(place, 0) - base)):
                start, end = found.span()
                if end > start:
                    into.append(Match(word_start(plain, start, first, self._reach), end, Tail.WORD, rule, place))
        return earliest

    def find_in_sentences(self, plain: str, first: int, *, final: bool, into: list[Match]) -> int:
        """Matches of the long patterns in the sentences that are complete; returns where the first that is not begins."""
        start = first
        while start < len(plain):
            ended = _SENTENCE_END.search(plain, start, start + MAX_SENTENCE)
            end = ended.end() if ended else start + MAX_SENTENCE
            if end > len(plain) or (not ended and end >= len(plain)):
                if not final:
                    return start
                end = len(plain)
            sentence = plain[start:end]
            for rule, pattern in self._long:
                for found in pattern.compiled.finditer(sentence):
                    if found.end() > found.start():
                        begins = word_start(sentence, found.start(), 0)
                        into.append(match_of(rule, start + begins, start + found.end(), Tail.WORD))
            start = end
        return start
