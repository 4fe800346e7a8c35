# ruff: noqa: RUF001 - characters that look alike are what this is about
"""The normal form in which text is compared, so that tricks with Unicode do not get past a rule.

Every character is brought into its form alone, whatever stands beside it (compatibility decomposition without marks). So the form of
a text does not depend on how it is cut, and nothing has to wait for a mark that may still come. `PLAIN` keeps the case: patterns and
PII are looked for in it. `FOLDED` has one character for each of the plain form: keywords are looked for in it.
"""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_WINDOW: Final = 64  # plain characters that streamed text is held back by, at most, but for whole sentences
WORD_REACH: Final = 24  # how far back the beginning of a word is looked for

_LINE_BREAKS: Final = frozenset("\n\r\v\f\x85\u2028\u2029")
_BLANKS: Final = frozenset("\u2800")  # looks like a space, counts as a symbol
_INVISIBLE_LETTERS: Final = frozenset("\u115f\u1160\u3164\uffa0")  # Hangul fillers
_ALIKE_PUNCTUATION: Final = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u02b9", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"'),
    **dict.fromkeys("\u2044\u2215", "/"),
    **dict.fromkeys("\u2212\u2043", "-"),
    "\u2236": ":",
    "\ua78f": ".",
}  # fmt: skip
# Characters that look like a Latin letter, by that letter; lower case, since case is folded first. Written by us, from looking at them.
_LOOK_ALIKES: Final = {
    "a": "аαɑᴀ", "b": "вβʙƀ", "c": "сϲᴄ¢", "d": "ԁđɖᴅ", "e": "еεєᴇ℮", "f": "ƒꜰ", "g": "ɡԍɢ", "h": "нһηհʜħ", "i": "іιıɪӏ¡",
    "j": "јϳᴊ", "k": "кκᴋ", "l": "ʟłⅼǀ", "m": "мᴍ", "n": "пɴոռ", "o": "оοσօᴏøө", "p": "рρᴘ", "q": "ԛզ", "r": "гʀꭇ",
    "s": "ѕꜱʂ", "t": "тτᴛŧ", "u": "υսᴜцʋ", "v": "νѵᴠ", "w": "ԝωшᴡ", "x": "хχ×", "y": "уγүʏ", "z": "ζᴢƶ",
}  # fmt: skip
# Enclosed and regional letters that compatibility decomposition leaves alone: the code point of their A.
_ENCLOSED_A: Final = (0x1F150, 0x1F170, 0x1F1E6)
_ENCLOSED: Final = {chr(first + n): chr(ord("A") + n) for first in _ENCLOSED_A for n in range(26)}


class _Plain(dict[int, str]):
    """The plain form of a character by its code point, worked out once; for `str.translate` too."""

    def __missing__(self, code: int) -> str:
        form = self[code] = _plain(chr(code))
        return form


class _Folded(dict[int, str]):
    """The folded form of a plain character, always one character."""

    def __missing__(self, code: int) -> str:
        form = self[code] = _folded(chr(code))
        return form


class _Kinds(dict[str, int]):
    """Of a plain character: 0 not of a word, 1 of a word, 2 a word of its own, 3 such, but joined to the one before it."""

    def __missing__(self, character: str) -> int:
        kind = self[character] = _kind(character)
        return kind


def plain_form(text: str) -> str:
    """The plain form of a whole text: a run of white space is one space, or one line break if it begins with one."""
    formed = text.translate(PLAIN)
    found: list[str] = []
    for character in formed:
        if not character.isspace() or not found or not found[-1].isspace():
            found.append(character)
    return "".join(found)


def folded_form(plain: str) -> str:
    """The folded form of a plain text; as long as it."""
    return plain.lower().replace("\n", " ") if plain.isascii() else plain.translate(FOLDED)


def keyword_form(keyword: str) -> str:
    """A keyword as it is looked for; empty when nothing of it is visible."""
    return folded_form(plain_form(keyword)).strip()


def is_boundary(plain: str, index: int) -> bool:
    """Whether one word can end and another begin before `index`; the ends of `plain` count as such."""
    if index <= 0 or index >= len(plain):
        return True
    before, after = KINDS[plain[index - 1]], KINDS[plain[index]]
    if not before or not after:
        return True
    return after != 3 and (before > 1 or after > 1)


def word_start(plain: str, index: int, first: int, reach: int = WORD_REACH) -> int:
    """The beginning of the word that `index` stands in, from `first` on; `index` itself when it is further back than `reach`."""
    for start in range(index, max(index - reach, first) - 1, -1):
        if is_boundary(plain, start):
            return start
    return index


def _plain(character: str) -> str:
    if character in _ENCLOSED:
        return _ENCLOSED[character]
    if character in "ßẞ":
        return "ss" if character == "ß" else "SS"
    return "".join(_plain_part(part) for part in unicodedata.normalize("NFKD", character))


def _plain_part(character: str) -> str:
    if character in _LINE_BREAKS:
        return "\n"
    if character.isspace() or character in _BLANKS:
        return " "
    category = unicodedata.category(character)
    if category in ("Mn", "Me", "Cf", "Cc") or character in _INVISIBLE_LETTERS or _is_unassigned_filler(character):
        return ""
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd":
        return "-"
    return _ALIKE_PUNCTUATION.get(character, character)


def _is_unassigned_filler(character: str) -> bool:
    """Code points that are reserved for invisible characters."""
    return character == "\u2065" or "\ufff0" <= character <= "\ufff8" or "\U000e0000" <= character <= "\U000e0fff"


def _folded(character: str) -> str:
    if character == "\n":
        return " "
    folded = character.casefold()
    if len(folded) != 1:
        folded = character
    return _LATIN.get(folded, folded)


def _kind(character: str) -> int:
    if not character.isalnum() and unicodedata.category(character) != "Mc":
        return 0
    if "\u1100" <= character <= "\u11ff":
        return 2 if character < "\u1160" else 3
    return 2 if any(first <= character <= last for first, last in UNSPACED) else 1


# Scripts that are written without spaces: Thai, Lao, Burmese, Khmer, Hangul, Kana, Han. Each character is a word of its own.
UNSPACED: Final = (
    ("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1100", "\u11ff"), ("\u1780", "\u17ff"), ("\u2e80", "\ua4cf"), ("\ua960", "\ua97f"),
    ("\uac00", "\ud7ff"), ("\uf900", "\ufaff"), ("\U0001b000", "\U0001b16f"), ("\U00020000", "\U0003ffff"),
)  # fmt: skip
_LATIN: Final = {alike: letter for letter, all_alike in _LOOK_ALIKES.items() for alike in all_alike}
SPACED_WORD: Final = (
    rf"[^\W_{''.join(f'{first}-{last}' for first, last in UNSPACED)}]"  # in patterns: of a word of several characters
)
PLAIN: Final = _Plain()
FOLDED: Final = _Folded()
KINDS: Final = _Kinds()
