"""The calculator: what it computes, and what it refuses."""

import math
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tools.support import Door
from tools.arithmetic import MAX_DEPTH, MAX_LENGTH, ArithmeticProblem, calculate


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("12*(3+4)", "84"),
        ("8 - 3 - 2", "3"),
        ("100 / 10 / 5", "2"),
        ("2 ** 3 ** 2", "512"),
        ("-2 ** 2", "-4"),
        ("(-2) ** 2", "4"),
        ("2 ** -2", "0.25"),
        ("--3", "3"),
        ("2 - -3", "5"),
        ("10 // 3", "3"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("7.5 % 2", "1.5"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.33333333333333333333"),
        ("1 / 3 * 3", "1"),
        ("2/3", "0.66666666666666666667"),
        ("sqrt(2)", "1.414213562373095048801688"[:21]),
        ("sqrt(16 / 9) * 3", "4"),
        ("27 ** (1/3)", "3"),
        ("abs(-3.5)", "3.5"),
        ("round(2.5)", "3"),
        ("round(-2.5)", "-3"),
        ("round(2.675, 2)", "2.68"),
        ("round(1234, -2)", "1200"),
        ("min(3, 1, 2)", "1"),
        ("max(3, min(9, 7), 2)", "7"),
        ("1.5e3", "1500"),
        (".5 + 1.", "1.5"),
        ("1e-12", "1E-12"),
        ("2 ** 100", "1267650600228229401496703205376"),
        ("3 \N{MULTIPLICATION SIGN} 4 ÷ 2 \N{MINUS SIGN} 1", "5"),
        ("0 ** 0", "1"),
        ("  7  ", "7"),
    ],
)
def test_an_expression_has_its_value(expression: str, result: str):
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("", "a number is missing before the end"),
        ("1 +", "a number is missing before the end"),
        ("(1 + 2", "')' is missing before the end"),
        ("1)", "')' at position 2 is not expected"),
        ("1 2", "'2' at position 3"),
        ("1, 2", "',' at position 2"),
        ("1 ^ 2", "Write ** for powers"),
        ("1 $ 2", "'$' at position 3 is not understood"),
        ("1 / 0", "divides by zero"),
        ("1 // 0", "divides by zero"),
        ("1 % 0", "divides by zero"),
        ("1 / (2 - 2)", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("sqrt(-1)", "no real square root"),
        ("(-8) ** (1/3)", "no real power"),
        ("nan", "'nan' is not known"),
        ("inf", "'inf' is not known"),
        ("__import__('os')", "is not"),
        ("sqrt", "'(' is missing"),
        ("sqrt()", "a number is missing"),
        ("sqrt(1, 2)", "does not take 2 values"),
        ("round(1, 0.5)", "whole number of digits"),
        ("9 ** 9 ** 9", "exponent is beyond"),
        ("10 ** 1000", "more than 1000 digits"),
        ("99999 ** 999", "more than 1000 digits"),
        ("10 ** 600 * 10 ** 600", "more than 1000 digits"),
        ("1e9999", "exponent of 1e9999 is beyond"),
        ("10 ** -600 / 10 ** 600", "too close to zero"),
        ("1.5 ** 1001", "exponent is beyond"),
        ("1" * (MAX_LENGTH + 1), "longer than"),
        ("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "nested more than"),
        ("2**" * (MAX_DEPTH + 1) + "1", "nested more than"),
    ],
)
def test_what_cannot_be_calculated_is_refused_with_a_reason(expression: str, told: str):
    with pytest.raises(ArithmeticProblem) as problem:
        calculate(expression)
    assert told in str(problem.value)


numbers = st.integers(0, 9999).map(str) | st.decimals(0, 999, places=3).map(str)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/%"), inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]} // {parts[1]})"),
        inner.map(lambda part: f"-{part}"),
        st.tuples(inner, st.integers(0, 4)).map(lambda parts: f"({parts[0]}) ** {parts[1]}"),
    ),
    max_leaves=12,
)


def by_python(expression: str) -> Fraction | None:
    """The exact value according to Python's own parser, on fractions."""
    exact = expression.replace("(", "Fraction(")  # what // gives is a plain int, whose / would give a float
    exact = re.sub(r"(?<!\*\* )(\b\d+(?:\.\d+)?)", r"Fraction('\1')", exact)
    try:
        value = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        return None
    return Fraction(value)


@given(expressions)
@settings(max_examples=150, deadline=None)
def test_it_computes_what_python_computes_with_fractions(expression: str):
    if len(expression) > MAX_LENGTH:
        return
    expected = by_python(expression)
    try:
        result = Fraction(calculate(expression))
    except ArithmeticProblem as problem:
        too_much = expected is not None and (
            abs(expected) > 10**300 or "digits" in str(problem) or "zero" in str(problem)
        )
        assert expected is None or too_much
        return
    assert expected is not None
    assert abs(result - expected) <= abs(expected) / 10**19


@given(st.text(alphabet="0123456789.+-*/%()eE, sqrtabminxoud_^'", max_size=120))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_finite_number_or_a_reason(text: str):
    try:
        result = calculate(text)
    except ArithmeticProblem as problem:
        assert str(problem).endswith(".")
    else:
        assert math.isfinite(Fraction(result))


async def test_the_tool_gives_the_number_as_text(door: Door):
    result = await door.call("calculator_tool", {"expression": "12 * (3 + 4)"})

    assert (result.ok, result.content) == (True, "84")


async def test_the_tool_tells_the_model_what_is_wrong(door: Door):
    result = await door.call("calculator_tool", {"expression": "1 / 0"})

    assert not result.ok
    assert "divides by zero" in result.content


@pytest.mark.parametrize(
    ("expression", "values", "result"),
    [
        ("a - b", {"a": 16, "b": 12.5}, "3.5"),
        ("-x ** 2", {"x": -3}, "-9"),
        ("abs(t_1) * 2", {"t_1": -0.1}, "0.2"),
        ("x", {"x": 1e-7}, "0.0000001"),
        ("abs(abs)", {"abs": 4}, None),
        ("a + c", {"a": 1}, None),
        ("a b", {"a": 1, "b": 2}, None),
    ],
)
def test_names_stand_for_the_numbers_that_are_given(
    expression: str, values: dict[str, float], result: str | None
) -> None:
    if result is not None:
        assert calculate(expression, values) == result
        return
    with pytest.raises(ArithmeticProblem):
        calculate(expression, values)
