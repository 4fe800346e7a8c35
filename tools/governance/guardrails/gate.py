"""Holds streamed text back as far as a match could still be open, and not further.

What a rule finds depends on the text alone, never on the pieces it came in: each match is certain at a place that follows from the
text, and text leaves only up to where everything is certain. A whole text is checked by the same gate, fed once: so the two agree.
"""

from __future__ import annotations

import re
from typing import Final

from tools.governance.guardrails.matches import Match, Tail, in_order
from tools.governance.guardrails.normal_form import FOLDED, PLAIN, folded_form, is_boundary
from tools.governance.guardrails.policy import Action, Finding
from tools.governance.guardrails.rules import RUN, StageRules
from tools.governance.guardrails.tokens import ADDRESS_TAIL, KEY_BLOCK_END, LONGEST_KEY_BLOCK_END, TOKEN_TAIL
from tools.governance.guardrails.words import HELD_RUN

MAX_FINDINGS: Final = 100  # what more a text holds is treated alike, but not listed
MAX_INVISIBLE: Final = 32  # invisible characters in a row that leave; the rest of such a run is dropped
MAX_BLANKS: Final = 500  # white space in a row, likewise
_CONTEXT: Final = 2  # plain characters kept from before the window
_QUIET: Final = 32  # while no more is held, a piece of a word waits for the rest of it
_BLANK: Final = (" ", "\n")
# Printable characters whose plain form is one character: ASCII, Latin, Greek, Cyrillic, Arabic, Han, Kana, their punctuation.
_ONE_FOR_ONE: Final = re.compile(
    "[ -~\u00c0-\u00de\u00e0-\u0131\u0134-\u013e\u0141-\u0148\u014a-\u017f\u0391-\u03a1\u03a3-\u03c9\u0400-\u0481\u0621-\u063a\u0641-\u064a"
    "\u2010-\u2015\u2018-\u201f\u3001-\u3003\u3008-\u3011\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uff01-\uff5e]+"
)
_PLACEHOLDERS: Final = {
    "email": "[e-mail]", "phone": "[phone number]", "card": "[card number]", "iban": "[IBAN]", "api_key": "[API key]",
    "private_key": "[private key]",
}  # fmt: skip


class OutputGate:
    """One per message. `violation` is set once: what stood before it was returned, nothing of it or after it ever is.

    `findings` are all matches in order, redactions and warnings too, the violation last.
    """

    def __init__(self, rules: StageRules, *, streamed: bool = True) -> None:
        self.violation: Finding | None = None
        self.findings: list[Finding] = []
        self._rules = rules
        self._streamed = streamed
        self._is_quick = rules.is_quick
        self._taken = 0
        self._cut_at = min((most for most, rule in rules.lengths if rule.blocks), default=None)
        # The window: `_plain` from `_base` on, of which all before `_at` has left; `_original` begins at `_at`, and `_starts` says
        # where in it each plain character stands (None: one for one).
        self._plain = ""
        self._base = 0
        self._at = 0
        self._original = ""
        self._starts: list[int] | None = None
        self._gone = 0
        self._dropped: list[tuple[int, int]] = []
        self._invisible = 0
        self._blanks = 0
        # What is being removed: up to `_remove_to` at least, then as far as `_tail` goes.
        self._removing = False
        self._remove_to = 0
        self._tail = Tail.NOTHING
        self._removed_last = False
        self._carry = ""
        self._position = 0
        self._left_at = 0
        self._seen_to: dict[int, int] = {}
        self._resume: dict[int, int] = {}
        self._sentence = 0
        self._waiting: list[Match] = []

    def feed(self, delta: str) -> str:
        """Take what the model said; returns the text that may leave now, often empty."""
        if not delta or self.violation is not None:
            return ""
        self._taken += len(delta)
        if self._cut_at is not None and self._taken > self._cut_at:
            return self._too_long(delta[: len(delta) - (self._taken - self._cut_at)])
        self._take(delta)
        if self._starts is None and not self._removing and self._is_quick:
            return self._advance_quickly(delta)
        return self._advance(final=False)

    def end(self) -> str:
        """The message is complete: returns the rest."""
        if self.violation is not None:
            return ""
        rest = self._advance(final=True)
        if self.violation is None:
            for most, rule in self._rules.lengths:
                if self._taken > most:
                    self.findings.append(
                        Finding(
                            rule.policy, self._rules.stage, "length", most, self._taken, f"{self._taken} characters"
                        )
                    )
        return rest

    def whole(self, text: str) -> str:
        """Take a whole text at once; returns all that may leave."""
        self._taken = len(text)
        if self._cut_at is not None and self._taken > self._cut_at:
            return self._too_long(text[: self._cut_at])
        self._take(text)
        return self.end()

    def _too_long(self, rest: str) -> str:
        if rest:
            self._take(rest)
        left = self._advance(final=True)
        if self.violation is None:
            most, rule = min(self._rules.lengths, key=lambda length: (not length[1].blocks, length[0]))
            self.violation = Finding(
                rule.policy, self._rules.stage, "length", most, most, f"more than {most} characters"
            )
            self.findings.append(self.violation)
        return left

    def _take(self, delta: str) -> None:
        """Add to the window. Text without runs of white space, of characters that have one plain one each, needs no map."""
        is_ascii = delta.isascii()
        if not (delta.isprintable() if is_ascii else _ONE_FOR_ONE.fullmatch(delta)) or "  " in delta:
            self._take_slowly(delta)
            return
        if delta[0] == " " and self._plain[-1:] in _BLANK:
            self._take_slowly(delta)
            return
        if self._starts is not None:
            self._starts.extend(range(len(self._original), len(self._original) + len(delta)))
        self._original += delta
        self._plain += delta if is_ascii else delta.translate(PLAIN)
        self._invisible = self._blanks = 0

    def _take_slowly(self, delta: str) -> None:
        starts = self._starts if self._starts is not None else list(range(len(self._original)))
        kept: list[str] = []
        plain: list[str] = []
        place = len(self._original)
        blank = self._plain[-1:] in _BLANK
        for character in delta:
            form = PLAIN[ord(character)]
            grown = len(plain)
            for part in form:
                if part not in _BLANK:
                    blank = False
                elif blank:
                    continue
                else:
                    blank = True
                plain.append(part)
                starts.append(place)
            if len(plain) > grown:
                self._invisible = self._blanks = 0
            elif self._is_dropped(form, is_first=not plain):
                self._dropped.append((self._base + len(self._plain) + len(plain), 1))
                continue
            kept.append(character)
            place += 1
        self._plain += "".join(plain)
        self._original += "".join(kept)
        is_one_for_one = len(self._original) == len(starts) and starts == list(range(len(starts)))
        self._starts = None if is_one_for_one else starts

    def _is_dropped(self, form: str, *, is_first: bool) -> bool:
        """Whether a character that adds nothing to the plain form is one too many, or belongs to what was removed."""
        if is_first and self._removed_last and not self._removing and len(self._plain) == self._at:
            return True
        if form:
            self._blanks += 1
        else:
            self._invisible += 1
        return self._streamed and (self._blanks > MAX_BLANKS or self._invisible > MAX_INVISIBLE)

    def _advance_quickly(self, delta: str) -> str:
        """As `_advance`, for the common case: plain text in which nothing is found."""
        plain, at = self._plain, self._at
        size = len(plain)
        is_ascii = plain.isascii()
        if size <= _QUIET and is_ascii and delta.isalnum():
            return ""
        folded = plain.lower() if is_ascii else plain.translate(FOLDED)
        if not plain.isprintable() or not self._rules.is_harmless(plain, folded, at):
            return self._advance(final=False)
        limit = max(len(plain.rstrip(RUN)), size - HELD_RUN) if is_ascii else self._rules.unfinished_run(plain, at)
        if limit <= at:
            return ""
        text = self._original[: limit - at]
        self._original = self._original[limit - at :]
        cut = max(limit - _CONTEXT, 0)
        self._plain = plain[cut:]
        self._base += cut
        self._at = self._position = limit - cut
        self._gone += limit - at
        self._removed_last = False
        return text

    def _advance(self, *, final: bool) -> str:
        plain, first = self._plain, self._at
        folded = plain.lower() if plain.isascii() and "\n" not in plain else folded_form(plain)
        matches: list[Match] = []
        limit = self._find(plain, folded, first, final, matches)
        if final:
            limit = len(plain)
        elif self._starts is not None:
            while first < limit < len(plain) and self._starts[limit - first] == self._starts[limit - first - 1]:
                limit -= 1
        left: list[str] = []
        if matches:
            certain = [match for match in matches if first <= match.start < limit]
            certain.sort(key=in_order)
            for match in certain:
                self._accept(match, left)
                if self.violation is not None:
                    return "".join(left)
        if not self._removing and not left and self._starts is None:
            text = self._original if limit == len(plain) else self._original[: limit - first]
            if self._left_at:
                text = text[self._left_at :]
            if limit > self._position:
                self._removed_last = False
            self._forget(limit)
            return text
        self._pass(limit, left)
        self._forget(limit)
        return "".join(left)

    def _find(self, plain: str, folded: str, first: int, final: bool, into: list[Match]) -> int:
        rules = self._rules
        limit = rules.find(plain, folded, first, final=final, into=into)
        limit = min(limit, rules.patterns.find(plain, first, self._resume, self._base, final=final, into=into))
        if rules.patterns.hold_sentences:
            limit = min(limit, self._find_in_sentences(plain, final, into))
        if final:
            starts = self._starts if self._starts is not None else range(len(self._original))
            rules.find_in_whole(plain, folded, self._original, starts, into)
            return limit
        return max(min(limit, rules.unfinished_run(plain, first)), first)

    def _find_in_sentences(self, plain: str, final: bool, into: list[Match]) -> int:
        found: list[Match] = []
        base = self._base
        start = self._rules.patterns.find_in_sentences(plain, self._sentence - base, final=final, into=found)
        self._sentence = base + start
        self._waiting += [match._replace(start=match.start + base, end=match.end + base) for match in found]
        into.extend(match._replace(start=match.start - base, end=match.end - base) for match in self._waiting)
        return start

    def _accept(self, match: Match, left: list[str]) -> None:
        if match.place >= 0:
            self._resume[match.place] = max(self._resume.get(match.place, 0), self._base + match.end)
        action = match.rule.policy.action
        if action is Action.BLOCK:
            self._pass(match.start, left)
            self.violation = self._finding(match)
            self.findings.append(self.violation)
        elif action is Action.REDACT:
            self._pass(match.start, left)
            self._remove(match, left)
        elif self._seen_to.get(match.rule.order, 0) <= self._base + match.start:
            self._seen_to[match.rule.order] = self._base + match.end
            self._list(match)

    def _remove(self, match: Match, left: list[str]) -> None:
        end = self._base + match.end
        if self._removing or match.start < self._position:
            self._remove_to = max(self._remove_to, end)
            self._tail = max(self._tail, match.tail) if self._removing else match.tail
        else:
            self._list(match)
            left.append(_PLACEHOLDERS.get(match.rule.category, "[removed]"))
            self._remove_to, self._tail, self._carry = end, match.tail, ""
        self._removing = True

    def _pass(self, to: int, left: list[str]) -> None:
        """Let the text up to `to` leave, without what is to be removed."""
        if self._removing:
            place = max(self._position, min(self._remove_to - self._base, to))
            is_over = self._remove_to - self._base <= to
            if is_over:
                place, is_over = self._end_of_tail(place, to)
            if self._starts is not None:
                offset = place - self._at
                while is_over and 0 < offset < len(self._starts) and self._starts[offset] == self._starts[offset - 1]:
                    offset += 1
                place = self._at + offset
            self._position, self._left_at, self._removed_last = place, self._place_of(place), True
            if not is_over:
                return
            self._removing = False
        if to < self._position:
            return
        place = self._place_of(to)
        if place > self._left_at:
            left.append(self._original[self._left_at : place])
            self._left_at = place
        if to > self._position:
            self._position, self._removed_last = to, False

    def _end_of_tail(self, place: int, to: int) -> tuple[int, bool]:
        """How far what is removed goes, up to `to`, and whether it ends there."""
        if self._tail is Tail.NOTHING:
            return place, True
        if self._tail is Tail.WORD:
            while place < to and not is_boundary(self._plain, place):
                place += 1
            return place, place < to
        if self._tail is Tail.KEY_BLOCK:
            text = self._carry + self._plain[place:to]
            found = KEY_BLOCK_END.search(text)
            if found:
                return place + found.end() - len(self._carry), True
            self._carry = text[-LONGEST_KEY_BLOCK_END:]
            return to, False
        found = (ADDRESS_TAIL if self._tail is Tail.ADDRESS else TOKEN_TAIL).match(self._plain, place)
        end = min(found.end(), to) if found else place
        return end, end < to

    def _forget(self, limit: int) -> None:
        """Move the window on to `limit`: everything before it has left."""
        place = self._place_of(limit)
        if self._starts is not None:
            self._starts = [start - place for start in self._starts[limit - self._at :]]
        self._original = self._original[place:]
        if self._starts == list(range(len(self._original))):
            self._starts = None
        cut = max(limit - _CONTEXT, 0)
        self._plain = self._plain[cut:]
        self._base += cut
        self._at = self._position = limit - cut
        self._gone += place
        self._left_at = 0
        if self._waiting:
            self._waiting = [match for match in self._waiting if match.start >= self._base + self._at]

    def _place_of(self, index: int) -> int:
        """Where a plain character stands in the original window."""
        offset = index - self._at
        if self._starts is None:
            return offset
        return self._starts[offset] if offset < len(self._starts) else len(self._original)

    def _list(self, match: Match) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(self._finding(match))

    def _finding(self, match: Match) -> Finding:
        start = self._offset(match.start)
        end = max(self._offset(max(match.end - 1, match.start)) + 1, start)
        first = self._plain[match.start : match.start + 1]
        length = match.end - match.start
        excerpt = f"{first}{'*' * min(length - 1, 12)} ({length} characters)"
        return Finding(match.rule.policy, self._rules.stage, match.rule.category, start, end, excerpt)

    def _offset(self, index: int) -> int:
        dropped = sum(count for place, count in self._dropped if place <= self._base + index) if self._dropped else 0
        return self._gone + self._place_of(index) + dropped
