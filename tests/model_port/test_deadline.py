"""The one time limit for all waits on a model."""

from __future__ import annotations

import asyncio

import pytest

from orchestration.model_port.deadline import Deadline


async def test_a_wait_beyond_the_limit_ends_and_the_task_is_not_left_cancelled() -> None:
    deadline = Deadline()
    deadline.expire_in(0.01)
    with pytest.raises(TimeoutError):
        with deadline:
            await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_limit_that_is_put_off_holds_from_then_on() -> None:
    deadline, loop = Deadline(), asyncio.get_running_loop()
    deadline.expire_in(0.01)
    deadline.expire_in(0.1)
    started = loop.time()
    with pytest.raises(TimeoutError):
        with deadline:
            await asyncio.Event().wait()
    assert loop.time() - started >= 0.09


async def test_a_limit_that_passes_between_waits_ends_the_next_one_only_if_it_was_not_renewed() -> None:
    deadline = Deadline()
    deadline.expire_in(0.01)
    await asyncio.sleep(0.05)
    deadline.expire_in(30.0)
    with deadline:
        await asyncio.sleep(0)


async def test_a_limit_that_passed_while_nobody_waited_ends_the_next_wait() -> None:
    deadline = Deadline()
    deadline.expire_in(0.01)
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5.0) as bound:
        with pytest.raises(TimeoutError):
            with deadline:
                await asyncio.Event().wait()
    assert not bound.expired()


async def test_a_cancelled_task_stays_cancelled_though_the_limit_passes_too() -> None:
    async def waits() -> None:
        deadline = Deadline()
        deadline.expire_in(0.01)
        with deadline:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)  # the limit passes while the first cancellation is on its way

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_time_out_around_the_deadline_still_ends_as_its_own() -> None:
    deadline = Deadline()
    deadline.expire_in(30.0)
    outer = asyncio.timeout(0.01)
    with pytest.raises(TimeoutError):
        async with outer:
            with deadline:
                await asyncio.Event().wait()
    assert outer.expired()
    deadline.close()
