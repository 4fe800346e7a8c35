"""The calculator as a tool; the arithmetic stands in `tools.arithmetic`."""

from __future__ import annotations

from typing import Annotated

from tools.arithmetic import MAX_LENGTH, ArithmeticProblem, calculate
from tools.calls import FailureKind, SideEffects
from tools.invocation import ToolError
from tools.python_functions import tool_function


@tool_function(
    "calculator_tool",
    title="Calculator",
    description="""
        Calculates an arithmetic expression exactly and gives the result as a number. It knows + - * / // % **,
        parentheses, decimals, and the functions sqrt, abs, round, min, max. Use it for any calculation. Names in the
        expression can stand for numbers that are given beside it, such as results of other tools.
        """,
    side_effects=SideEffects.IDEMPOTENT,
    timeout_seconds=5,
)
async def calculator(
    expression: Annotated[
        str, {"description": "For example: (2 + 3) * 4 / 7", "minLength": 1, "maxLength": MAX_LENGTH}
    ],
    values: Annotated[
        dict[str, float] | None,
        {
            "description": 'Numbers by the names that the expression uses: {"a": 3, "b": 4} for a - b',
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,39}$"},
            "maxProperties": 30,
        },
    ] = None,
) -> str:
    """The result in decimal digits; raises ToolError that says where and why it cannot be calculated."""
    try:
        return calculate(expression, values)
    except ArithmeticProblem as problem:
        raise ToolError(f"{expression!r} cannot be calculated: {problem}", kind=FailureKind.BAD_ARGUMENTS) from problem
