"""Strangers who are refused are counted, not recorded one by one."""

import asyncio

import orjson
import pytest

from audit.entry import AuditEntry
from audit.refusals import RefusalCounter


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0 // 60 * 60

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recorded() -> list[AuditEntry]:
    return []


def envelope(made: AuditEntry) -> dict:
    return orjson.loads(made.envelope)


def counted(made: AuditEntry) -> int:
    return orjson.loads(made.payload_row[-1])["further_refusals"]


def test_the_first_refusal_is_recorded_at_once_and_names_no_address(recorded, clock):
    RefusalCounter(recorded.append, clock=clock).refused("203.0.113.7", "invalid_signature", "req-1")

    [made] = recorded
    assert envelope(made)["action"] == "authentication.refused"
    assert envelope(made)["outcome"] == "denied"
    assert envelope(made)["reason"] == "invalid_signature"
    assert envelope(made)["request_id"] == "req-1"
    assert envelope(made)["actor_kind"] == "stranger"
    assert b"203.0.113.7" not in made.envelope


def test_the_others_of_a_minute_become_one_row_with_their_number_when_it_is_over(recorded, clock):
    counter = RefusalCounter(recorded.append, clock=clock)
    for _ in range(500):
        counter.refused("203.0.113.7", "invalid_signature")
    assert len(recorded) == 1

    clock.now += 60
    counter.flush()

    assert len(recorded) == 2
    assert counted(recorded[1]) == 499
    assert envelope(recorded[1])["actor_id"] == envelope(recorded[0])["actor_id"]


def test_a_minute_with_one_refusal_makes_no_second_row(recorded, clock):
    counter = RefusalCounter(recorded.append, clock=clock)
    counter.refused("203.0.113.7", "invalid_signature")
    clock.now += 60
    counter.flush()

    assert len(recorded) == 1


def test_a_refusal_in_the_next_minute_settles_the_one_before_without_a_flush(recorded, clock):
    counter = RefusalCounter(recorded.append, clock=clock)
    for _ in range(3):
        counter.refused("203.0.113.7", "invalid_signature")
    clock.now += 60
    counter.refused("203.0.113.7", "invalid_signature")

    assert [made.payload_row is not None for made in recorded] == [False, True, False]


def test_sources_and_reasons_are_told_apart(recorded, clock):
    counter = RefusalCounter(recorded.append, clock=clock)
    for source, reason in [("a", "stale"), ("b", "stale"), ("a", "replayed"), ("a", "stale")]:
        counter.refused(source, reason)

    assert len(recorded) == 3
    assert len({envelope(made)["actor_id"] for made in recorded}) == 2


def test_an_attack_from_many_addresses_costs_no_more_rows_than_the_bound(recorded, clock):
    counter = RefusalCounter(recorded.append, clock=clock, max_sources=10)
    for number in range(5000):
        counter.refused(f"10.0.{number // 250}.{number % 250}", "invalid_signature")
    clock.now += 60
    counter.flush()

    rest = recorded[-1]
    assert len(recorded) == 10 + 1 + 1
    assert envelope(rest)["actor_id"] == "many"
    assert counted(rest) + len(recorded) - 1 == 5000


async def test_what_was_counted_is_recorded_when_the_loop_is_cancelled(recorded, clock):
    counter = RefusalCounter(recorded.append, clock=clock)
    counter.refused("a", "stale")
    counter.refused("a", "stale")
    running = asyncio.create_task(counter.run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert counted(recorded[-1]) == 1
