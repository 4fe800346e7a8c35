"""When a run is so near to a limit that its next model turn should be its last."""

from __future__ import annotations

import pytest

from orchestration.run_task import RunLimits

LIMITS = RunLimits(max_iterations=4, max_bytes=1000, max_seconds=100)


@pytest.mark.parametrize(
    ("turns", "size", "seconds", "limit"),
    [
        (0, 999, 99.0, ""), (1, 800, 80.0, ""), (2, 10, 1.0, ""), (3, 10, 1.0, "max_iterations"), (1, 801, 1.0, "max_bytes"),
        (1, 10, 80.1, "max_seconds"), (4, 10, 1.0, ""),
    ],
)  # fmt: skip
def test_the_limit_that_leaves_room_for_one_more_turn_is_named(
    turns: int, size: int, seconds: float, limit: str
) -> None:
    assert LIMITS.near(turns=turns, size=size, seconds=seconds) == limit


def test_the_only_turn_of_a_run_may_call_tools() -> None:
    assert RunLimits(max_iterations=1, max_bytes=1000, max_seconds=100).near(turns=0, size=0, seconds=0) == ""
