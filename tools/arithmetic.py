"""Arithmetic on text: a tokenizer and a parser of our own, exact fractions, bounds on everything.

    expression = term (("+" | "-") term)*
    term       = signed (("*" | "/" | "//" | "%") signed)*
    signed     = ("+" | "-") signed | power
    power      = atom ("**" signed)?
    atom       = number | "(" expression ")" | name "(" expression ("," expression)* ")"

So `-2 ** 2` is -4 and `2 ** 3 ** 2` is 512, as in mathematics and in Python. Numbers are fractions, so 0.1 + 0.2
is 0.3; what has no exact value (roots, broken exponents) has 60 digits. `//` rounds down and `%` fits it. `round`
rounds halves away from zero.
"""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Final

MAX_LENGTH: Final = 500
MAX_DEPTH: Final = 40
MAX_MAGNITUDE_DIGITS: Final = 1000
MAX_EXPONENT: Final = 1000
SHOWN_DIGITS: Final = 20

_MAX_EXACT_BITS = 4096
_LARGEST = Fraction(10) ** MAX_MAGNITUDE_DIGITS
_SMALLEST = 1 / _LARGEST
_TRAPS = [decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow]
_PRECISE = decimal.Context(prec=60, rounding=ROUND_HALF_UP, Emin=-5000, Emax=5000, traps=_TRAPS)
_SHOWN = decimal.Context(prec=SHOWN_DIGITS, rounding=ROUND_HALF_UP, Emin=-5000, Emax=5000, traps=_TRAPS)

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>\*\*|//|[-+*/%(),]))"
)
_ALIASES = str.maketrans({"\N{MULTIPLICATION SIGN}": "*", "·": "*", "÷": "/", "\N{MINUS SIGN}": "-"})


class ArithmeticProblem(ValueError):
    """The expression cannot be calculated; the text says why."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int


def calculate(expression: str, values: Mapping[str, float] | None = None) -> str:
    """The value in decimal digits: whole numbers in full, others with SHOWN_DIGITS significant digits.

    `values`: what names in the expression stand for; functions keep their names.

    Raises ArithmeticProblem.
    """
    if len(expression) > MAX_LENGTH:
        raise ArithmeticProblem(f"it is longer than {MAX_LENGTH} characters.")
    named = {name: _number(str(value).lstrip("-")) * (-1 if value < 0 else 1) for name, value in (values or {}).items()}
    return _written(_Parser(list(_tokens(expression.translate(_ALIASES))), named).whole())


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    text = text.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise ArithmeticProblem(_unreadable(text, position))
        kind = str(found.lastgroup)
        yield _Token(kind, found.group(kind), found.start(kind) + 1)
        position = found.end()
    yield _Token("end", "", len(text) + 1)


def _unreadable(text: str, position: int) -> str:
    while text[position].isspace():
        position += 1
    hint = " Write ** for powers." if text[position] == "^" else ""
    return f"{text[position]!r} at position {position + 1} is not understood.{hint}"


class _Parser:
    """Reads and calculates in one go; `_depth` counts what is open."""

    def __init__(self, tokens: list[_Token], named: Mapping[str, Fraction]) -> None:
        self._named = named
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def whole(self) -> Fraction:
        value = self._expression()
        if self._token.kind != "end":
            raise self._unexpected()
        return value

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *signs: str) -> str:
        """The next token's text, when it is one of these signs; otherwise nothing."""
        token = self._token
        if token.kind != "sign" or token.text not in signs:
            return ""
        self._next += 1
        return token.text

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._unexpected(f"{sign!r} is missing")

    def _unexpected(self, what: str = "") -> ArithmeticProblem:
        token = self._token
        where = f"{token.text!r} at position {token.position}" if token.text else "the end"
        return ArithmeticProblem(f"{what} before {where}." if what else f"{where} is not expected there.")

    def _expression(self) -> Fraction:
        value = self._term()
        while sign := self._take("+", "-"):
            right = self._term()
            value = _bounded(value + right if sign == "+" else value - right)
        return value

    def _term(self) -> Fraction:
        value = self._signed()
        while sign := self._take("*", "/", "//", "%"):
            value = _bounded(_OPERATIONS[sign](value, self._signed()))
        return value

    def _signed(self) -> Fraction:
        negative = False
        while sign := self._take("+", "-"):
            negative ^= sign == "-"
        value = self._power()
        return -value if negative else value

    def _power(self) -> Fraction:
        base = self._atom()
        if not self._take("**"):
            return base
        with self._deeper():
            return _bounded(_power(base, self._signed()))

    def _atom(self) -> Fraction:
        token = self._token
        if token.kind == "number":
            self._next += 1
            return _number(token.text)
        if token.kind == "name":
            self._next += 1
            if token.text in self._named and token.text not in _FUNCTIONS:
                return self._named[token.text]
            return _call(token.text, self._arguments)
        if not self._take("("):
            raise self._unexpected("a number is missing" if token.kind in ("end", "sign") else "")
        with self._deeper():
            value = self._expression()
        self._expect(")")
        return value

    def _arguments(self) -> list[Fraction]:
        self._expect("(")
        with self._deeper():
            values = [self._expression()]
            while self._take(","):
                values.append(self._expression())
        self._expect(")")
        return values

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ArithmeticProblem(f"it is nested more than {MAX_DEPTH} levels deep.")
        yield
        self._depth -= 1


# --- numbers


def _number(text: str) -> Fraction:
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_MAGNITUDE_DIGITS:
        raise ArithmeticProblem(f"the exponent of {text} is beyond {MAX_MAGNITUDE_DIGITS}.")
    return _bounded(Fraction(mantissa.rstrip(".") or "0") * Fraction(10) ** int(exponent or 0))


def _bounded(value: Fraction) -> Fraction:
    """The value, exact while that is cheap; raises ArithmeticProblem when it is too large or too small."""
    size = abs(value)
    if size >= _LARGEST:
        raise ArithmeticProblem(f"a value has more than {MAX_MAGNITUDE_DIGITS} digits.")
    if size and size < _SMALLEST:
        raise ArithmeticProblem("a value is too close to zero.")
    if value.denominator.bit_length() > _MAX_EXACT_BITS:
        return Fraction(_decimal(value, _PRECISE))
    return value


def _decimal(value: Fraction, context: decimal.Context) -> Decimal:
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))


def _divided(left: Fraction, right: Fraction) -> Fraction:
    return left / _not_zero(right)


def _divided_down(left: Fraction, right: Fraction) -> Fraction:
    return Fraction(left // _not_zero(right))


def _remainder(left: Fraction, right: Fraction) -> Fraction:
    return left % _not_zero(right)


def _not_zero(divisor: Fraction) -> Fraction:
    if not divisor:
        raise ArithmeticProblem("it divides by zero.")
    return divisor


_OPERATIONS: Final[dict[str, Callable[[Fraction, Fraction], Fraction]]] = {
    "*": lambda left, right: left * right,
    "/": _divided,
    "//": _divided_down,
    "%": _remainder,
}


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if abs(exponent) > MAX_EXPONENT:
        raise ArithmeticProblem(f"an exponent is beyond {MAX_EXPONENT}.")
    if not base and exponent < 0:
        raise ArithmeticProblem("it divides by zero.")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator == 1 and bits * abs(exponent) <= _MAX_EXACT_BITS:
        return base**exponent.numerator
    if base < 0 and exponent.denominator != 1:
        raise ArithmeticProblem("a negative number has no real power with a broken exponent.")
    try:
        return Fraction(_PRECISE.power(_decimal(base, _PRECISE), _decimal(exponent, _PRECISE)))
    except decimal.Overflow as error:
        raise ArithmeticProblem(f"a value has more than {MAX_MAGNITUDE_DIGITS} digits.") from error


def _square_root(value: Fraction) -> Fraction:
    if value < 0:
        raise ArithmeticProblem("a negative number has no real square root.")
    root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
    if root * root == value:
        return root
    return Fraction(_PRECISE.sqrt(_decimal(value, _PRECISE)))


def _rounded(value: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    if digits.denominator != 1 or abs(digits) > MAX_MAGNITUDE_DIGITS:
        raise ArithmeticProblem("round takes a whole number of digits.")
    scale = Fraction(10) ** digits.numerator
    away = math.floor(abs(value) * scale + Fraction(1, 2)) / scale
    return away if value >= 0 else -away


# name: function, how many values at least, at most
_FUNCTIONS: Final[dict[str, tuple[Callable[..., Fraction], int, int]]] = {
    "sqrt": (_square_root, 1, 1),
    "abs": (abs, 1, 1),
    "round": (_rounded, 1, 2),
    "min": (lambda *values: min(values), 1, MAX_LENGTH),
    "max": (lambda *values: max(values), 1, MAX_LENGTH),
}


def _call(name: str, read_arguments: Callable[[], list[Fraction]]) -> Fraction:
    if name not in _FUNCTIONS:
        raise ArithmeticProblem(f"{name!r} is not known; there are {', '.join(_FUNCTIONS)}.")
    function, least, most = _FUNCTIONS[name]
    values = read_arguments()
    if not least <= len(values) <= most:
        raise ArithmeticProblem(f"{name} does not take {len(values)} values.")
    return _bounded(function(*values))


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    shown = _decimal(value, _SHOWN).normalize(_SHOWN)
    return f"{shown:f}" if -10 <= shown.adjusted() < SHOWN_DIGITS else str(shown)
