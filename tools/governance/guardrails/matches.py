"""What the parts of a check hand to each other: rules, matches, and what goes on being removed after a match."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from tools.governance.guardrails.policy import Action, Policy


class Tail(IntEnum):
    """What belongs to a match after the point where it was certain; a later one takes more along."""

    NOTHING = 0
    WORD = 1
    ADDRESS = 2
    TOKEN = 3
    KEY_BLOCK = 4


class Rule(NamedTuple):
    """A policy as far as one category of findings is concerned; `order` is its place among the policies."""

    order: int
    policy: Policy
    category: str

    @property
    def blocks(self) -> bool:
        """Whether a match ends the text."""
        return self.policy.action is Action.BLOCK


class Match(NamedTuple):
    """A rule's match in the window, certain at `end`. `place` is the pattern's, where the next match of it begins behind this one."""

    start: int
    end: int
    tail: Tail
    rule: Rule
    place: int = -1


def in_order(match: Match) -> tuple[int, bool, int, int]:
    """How matches are taken: by place; what blocks comes first, then the longer one, then the order of policies."""
    return match.start, not match.rule.blocks, -match.end, match.rule.order


def match_of(rule: Rule, start: int, end: int, tail: Tail = Tail.NOTHING) -> Match:
    """A match of no pattern."""
    return Match(start, end, tail, rule)
