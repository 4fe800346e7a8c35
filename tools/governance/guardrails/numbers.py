# ruff: noqa: E501 - tables
"""Phone numbers, card numbers and IBANs: by form, by number of digits, and by their check digits.

Whether something begins at a place depends on the one character before it and on `NUMBER_REACH` characters from there on, never on
what was found elsewhere. So it does not matter in which pieces a text is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from tools.governance.guardrails.normal_form import KINDS, SPACED_WORD

NUMBER_REACH: Final = 48

# What one of the forms below begins with, so that tables of figures cost little.
_START: Final = re.compile(
    rf"(?<!{SPACED_WORD})(?=\+\(?[0-9]|\([0-9]|0[0-9]|[2-9][0-9]{{2}}[.-]|1[ .-][(2-9]|1[3-9][0-9][ -][0-9]{{4}}"
    r"|[2-6][0-9]{12}|[2-6][0-9]{3}[ \n-][0-9]{4}|[2-6][ \n-][0-9][ \n-])"
)
_OPENING: Final = re.compile(r"\+\(?|\(")
_GROUP: Final = re.compile(r"([ \n./()-]{1,3})?([0-9]+)")
_BACKWARDS: Final = re.compile(r"[0-9 \n./()+-]*")
_UNFINISHED: Final = re.compile(rf"(?<!{SPACED_WORD})[0-9(+]")
_IBAN_START: Final = re.compile(rf"(?<!{SPACED_WORD})(?=[A-Za-z]{{2}}[0-9]{{2}})")
_IBAN_GROUP: Final = re.compile(r"[A-Za-z0-9]+")
_MOBILE: Final = re.compile(r"01[567][0-9]{8,9}|07[0-9]{9}|0[67][0-9]{8}")
_CARD_FORMS: Final = ((4, 4, 4, 4, 3), (4, 4, 4, 4, 2), (4, 4, 4, 4, 1), (4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 3), (4, 4, 4, 2), (4, 4, 4, 1))  # fmt: skip

# Source: ITU-T E.164, list of assigned country codes; 1 and 7 stand apart since their numbers have a fixed length.
_TWO_DIGIT_CODES: Final = frozenset(
    [
        "20",
        "27",
        "30",
        "31",
        "32",
        "33",
        "34",
        "36",
        "39",
        "40",
        "41",
        "43",
        "44",
        "45",
        "46",
        "47",
        "48",
        "49",
        "51",
        "52",
        "53",
        "54",
        "55",
        "56",
        "57",
        "58",
        "60",
        "61",
        "62",
        "63",
        "64",
        "65",
        "66",
        "81",
        "82",
        "84",
        "86",
        "90",
        "91",
        "92",
        "93",
        "94",
        "95",
        "98",
    ]
)
_THREE_DIGIT_BEGINNINGS: Final = frozenset(
    [
        "21",
        "22",
        "23",
        "24",
        "25",
        "26",
        "29",
        "35",
        "37",
        "38",
        "42",
        "50",
        "59",
        "67",
        "68",
        "69",
        "80",
        "85",
        "87",
        "88",
        "96",
        "97",
        "99",
    ]
)
# Source: SWIFT IBAN registry: how long an IBAN of each country is.
_IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29, "BY": 28, "CH": 21,
    "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18,
    "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26,
    "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24,
    "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23,
    "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip


class Groups(NamedTuple):
    """Groups of digits from one place on: `before[n]` stands before `digits[n]`, which ends at `ends[n]`."""

    opening: str
    before: list[str]
    digits: list[str]
    ends: list[int]


def number_starts(text: str, first: int) -> Iterator[int]:
    """Where a phone or card number may begin, from `first` on."""
    return (found.start() for found in _START.finditer(text, first))


def unfinished_number(text: str, first: int) -> int:
    """Where the trailing run of digits and what stands between them begins, as far as it matters; else the text's length."""
    earliest = max(first, len(text) - NUMBER_REACH)
    run = _BACKWARDS.match(text[earliest:][::-1])
    found = _UNFINISHED.search(text, len(text) - (run.end() if run else 0))
    return found.start() if found else len(text)


def groups_at(text: str, start: int) -> Groups:
    """The groups of digits from a start on, as far as they end within reach and at no letter."""
    opening = _OPENING.match(text, start)
    at = opening.end() if opening else start
    groups = Groups(opening.group() if opening else "", [], [], [])
    last = start + NUMBER_REACH
    while found := _GROUP.match(text, at):
        at = found.end()
        if at >= last or (at < len(text) and KINDS[text[at]] == 1):
            break
        groups.before.append(found.group(1) or "")
        groups.digits.append(found.group(2))
        groups.ends.append(at)
    return groups


def card_end(text: str, start: int, groups: Groups) -> int | None:
    """Where the card number that begins here ends, if one does: 13 to 19 digits with a valid check digit."""
    if not groups.digits or groups.opening or text[max(start - 1, 0) : start] in ("-", ".", ",", "/", "+"):
        return None
    lengths = tuple(map(len, groups.digits))
    if _is_card(groups.digits[0]):
        return groups.ends[0]
    separators = [" " if before == "\n" else before for before in groups.before[1:]]
    if not set(separators[:1]) <= {" ", "-"}:
        return None
    for form in _CARD_FORMS:
        count = len(form)
        if (
            lengths[:count] == form
            and len(set(separators[: count - 1])) == 1
            and _is_card("".join(groups.digits[:count]))
        ):
            return groups.ends[count - 1]
    singles = next((n for n, length in enumerate(lengths) if length != 1), len(lengths))
    for count in range(min(singles, 19), 12, -1):
        if _is_card("".join(groups.digits[:count])):
            return groups.ends[count - 1]
    return None


def phone_end(text: str, start: int, groups: Groups) -> int | None:
    """Where the phone number that begins here ends, if one does."""
    line = next((place for place, before in enumerate(groups.before) if "\n" in before), len(groups.digits))
    if not line:
        return None
    groups = Groups(groups.opening, groups.before[:line], groups.digits[:line], groups.ends)
    if groups.opening.startswith("+"):
        return _international(groups)
    if text[max(start - 1, 0) : start] in (".", ",", "/", "-", "+", "#", "_"):
        return None
    if groups.digits[0].startswith("00"):
        return _international(groups, leading=2) if len(groups.digits) > 1 else None
    return _north_american(groups) or _national(groups) or _chinese(groups)


def iban_at(text: str, start: int, *, final: bool) -> int | None:
    """Where the IBAN that begins here ends; -1 when there is not enough text to tell; None when there is none."""
    wanted = _IBAN_LENGTHS.get(text[start : start + 2].upper())
    if wanted is None:
        return None
    digits, at = "", start
    while found := _IBAN_GROUP.match(text, at):
        group, end = found.group(), found.end()
        digits += group
        if end == len(text) and not final and len(digits) <= wanted:
            return -1
        if len(digits) >= wanted:
            return end if len(digits) == wanted and _is_iban(digits.upper()) else None
        if not (len(group) == 4 or any(map(str.isdigit, group))) or text[end : end + 1] not in (" ", "-", "\n"):
            return None
        at = end + 1
        if at - start >= NUMBER_REACH:
            return None
    return -1 if at >= len(text) and not final else None


def iban_starts(text: str, first: int) -> Iterator[int]:
    """Where an IBAN may begin, from `first` on."""
    return (found.start() for found in _IBAN_START.finditer(text, first))


def _international(groups: Groups, leading: int = 0) -> int | None:
    code = groups.digits[0][leading:]
    length = _code_length(code)
    if not length:
        return None
    digits, best = 0, None
    for number, end in zip(groups.digits[:7], groups.ends, strict=False):
        digits += len(number)
        national = digits - leading - length
        if (national == 10) if length == 1 else (6 <= national <= 15 - length):
            best = end
    return best


def _code_length(digits: str) -> int:
    if digits[:1] in ("1", "7"):
        return 1
    if digits[:2] in _TWO_DIGIT_CODES:
        return 2
    return 3 if digits[:2] in _THREE_DIGIT_BEGINNINGS and len(digits) > 2 else 0


def _north_american(groups: Groups) -> int | None:
    skipped = (
        1
        if groups.digits[0] == "1" and not groups.opening and groups.before[1:2] in ([" "], ["-"], ["."], [" ("])
        else 0
    )
    area, exchange, rest = (*groups.digits[skipped : skipped + 3], "", "", "")[:3]
    if (len(area), len(exchange), len(rest)) != (3, 3, 4) or area[0] in "01" or exchange[0] in "01":
        return None
    first, second = groups.before[skipped + 1 : skipped + 3]
    in_brackets = first in (") ", ")", ")-") and second in (" ", "-", ".")
    return groups.ends[skipped + 2] if in_brackets or (first == second and (first in "-." or skipped)) else None


def _national(groups: Groups) -> int | None:
    """With a leading 0: German, British, Dutch, Swiss ... with an area code, or French in pairs."""
    digits = groups.digits
    if not digits[0].startswith("0") or digits[0].startswith("00"):
        return None
    if _MOBILE.fullmatch(digits[0]):
        return groups.ends[0]
    if [len(group) for group in digits[:5]] == [2] * 5 and len(set(groups.before[1:5])) == 1:
        return groups.ends[4]
    if not 3 <= len(digits[0]) <= 6:
        return None
    count, best = len(digits[0]), None
    for place in range(1, min(len(digits), 6)):
        between = groups.before[place]
        allowed = (" ", "-", "/", ") ", ")", " / ", " - ", ")-", ") (") if place == 1 else (" ", "-")
        if between not in allowed or len(digits[place]) < 2:
            break
        count += len(digits[place])
        if 9 <= count <= 12:
            best = groups.ends[place]
    return best


def _chinese(groups: Groups) -> int | None:
    lengths = [len(group) for group in groups.digits[:3]]
    is_mobile = lengths == [3, 4, 4] and groups.digits[0][0] == "1" and groups.digits[0][1] in "3456789"
    return groups.ends[2] if is_mobile and groups.before[1] == groups.before[2] and groups.before[1] in " -" else None


def _is_card(digits: str) -> bool:
    if not 13 <= len(digits) <= 19 or not (digits[0] in "3456" or "22" <= digits[:2] <= "27"):
        return False
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(n - 9 if n > 9 else n for n in doubled)) % 10 == 0


def _is_iban(iban: str) -> bool:
    return iban.isascii() and int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1
