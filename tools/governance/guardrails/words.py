"""Keywords, and the beginnings of secrets, found in one pass of Aho and Corasick's automaton over the folded text.

The automaton tells what was found, not what has begun. So every keyword that goes on behind the end of a word is in it a second time,
with its beginning (its *head*) only: where a head was found, a table of all beginnings tells whether the keyword is still open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from ahocorasick_rs import AhoCorasick, Implementation

from tools.governance.guardrails.matches import Match, Rule, Tail, match_of
from tools.governance.guardrails.normal_form import KINDS, MAX_WINDOW, WORD_REACH, is_boundary, keyword_form, word_start
from tools.governance.guardrails.tokens import TOKENS, Token

HELD_RUN: Final = 40  # an unfinished word, or run of what addresses are made of, is held back up to this length


@dataclass(slots=True)
class _Literal:
    """What it means that a text was found: whole keywords (anywhere, or as words), heads of keywords, secrets."""

    words: list[Rule] = field(default_factory=list)
    anywhere: list[Rule] = field(default_factory=list)
    head_of_words: bool = False
    head_of_anywhere: bool = False
    tokens: list[tuple[Rule, Token]] = field(default_factory=list)


class Words:
    """The literals of a set of rules."""

    def __init__(self) -> None:
        self._literals: dict[str, _Literal] = {}
        self._word_beginnings: set[str] = set()
        self._anywhere_beginnings: set[str] = set()
        self._ordered: list[_Literal] = []
        self._find_all: Callable[[str, bool], list[tuple[int, int, int]]] | None = None
        self._reach = 0

    def add_keywords(self, rule: Rule, keywords: Iterable[str], *, anywhere: bool) -> None:
        """Look for keywords as whole words, or anywhere."""
        for keyword in filter(None, map(keyword_form, keywords)):
            literal = self._literal(keyword)
            (literal.anywhere if anywhere else literal.words).append(rule)
            self._add_head(keyword, anywhere=anywhere)

    def add_tokens(self, rule: Rule) -> None:
        """Look for the secrets of the rule's category."""
        for token in TOKENS:
            if token.category != rule.category:
                continue
            for text in token.literals:
                self._literal(text).tokens.append((rule, token))
                self._add_head(text, anywhere=False)

    def compile(self) -> None:
        """Build the automaton, after everything was added."""
        self._ordered = list(self._literals.values())
        if self._literals:
            automaton = AhoCorasick(list(self._literals), implementation=Implementation.ContiguousNFA)
            self._find_all = automaton.find_matches_as_indexes
        longest = max((len(text) for text in self._anywhere_beginnings), default=0)
        longest = max(longest, max((len(t) for t, literal in self._literals.items() if literal.anywhere), default=0))
        self._reach = min(WORD_REACH, max(0, MAX_WINDOW - longest))

    def any_in(self, folded: str) -> bool:
        """Whether there is anything to judge."""
        return self._find_all is not None and bool(self._find_all(folded, False))

    def find(self, plain: str, folded: str, first: int, *, final: bool, into: list[Match]) -> int:
        """Put the matches from `first` on into `into`; returns where the earliest begins that is still open."""
        if self._find_all is None:
            return len(plain)
        hits = self._find_all(folded, True)
        earliest = len(plain)
        for index, start, end in hits:
            if start >= first:
                earliest = min(
                    earliest, self._judge(self._ordered[index], plain, folded, first, start, end, final, into)
                )
        return earliest

    def _judge(
        self,
        literal: _Literal,
        plain: str,
        folded: str,
        first: int,
        start: int,
        end: int,
        final: bool,
        into: list[Match],
    ) -> int:
        earliest = len(plain)
        if literal.anywhere or literal.head_of_anywhere:
            begins = word_start(plain, start, first, self._reach)
            into.extend(match_of(rule, begins, end, Tail.WORD) for rule in literal.anywhere)
            if literal.head_of_anywhere and not final and folded[start:] in self._anywhere_beginnings:
                earliest = begins
        if not is_boundary(plain, start):
            return earliest
        if literal.words and is_boundary(plain, end):
            into.extend(match_of(rule, start, end) for rule in literal.words)
        if literal.head_of_words and not final and folded[start:] in self._word_beginnings:
            earliest = min(earliest, start)
        for rule, token in literal.tokens:
            earliest = min(earliest, _judge_token(rule, token, plain, start, final, into))
        return earliest

    def _literal(self, text: str) -> _Literal:
        return self._literals.setdefault(text, _Literal())

    def _add_head(self, text: str, *, anywhere: bool) -> None:
        places = range(1, len(text))
        inner = next((p for p in places if is_boundary(text, p) or KINDS[text[p - 1]] > 1), len(text))
        # A beginning that ends within a word stands in the unfinished word, which is held back anyway, as long as it is short.
        held = HELD_RUN - (WORD_REACH if anywhere else 0)
        length = min(inner + (KINDS[text[inner - 1]] == 1), held + 1)
        if length > len(text):
            return
        literal = self._literal(text[:length])
        beginnings = self._anywhere_beginnings if anywhere else self._word_beginnings
        beginnings.update(text[:n] for n in range(length, len(text) + 1))
        literal.head_of_anywhere |= anywhere
        literal.head_of_words |= not anywhere


def _judge_token(rule: Rule, token: Token, plain: str, start: int, final: bool, into: list[Match]) -> int:
    found = token.certain.match(plain, start)
    if found:
        if token.needs.search(found.group()):
            into.append(match_of(rule, start, found.end(), token.tail))
        return len(plain)
    if final or len(plain) - start >= MAX_WINDOW:
        return len(plain)
    begun = token.unfinished.match(plain, start)
    return start if begun and begun.end() == len(plain) else len(plain)
