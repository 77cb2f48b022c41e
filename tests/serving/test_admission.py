"""How many run, how many wait, and who is refused."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_gpt.serving.admission import Admission
from keras_gpt.serving.errors import ServingError


def with_busy(test: Callable[[Admission, threading.Event, list[str]], Awaitable[None]]) -> None:
    """Run a test on an event loop, with room for one running and one waiting request."""
    refusals: list[str] = []

    async def body() -> None:
        free = threading.Event()
        try:
            await asyncio.wait_for(test(Admission(1, 1, refusals.append), free, refusals), 20)
        finally:
            free.set()

    asyncio.run(body())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_one_too_many_is_refused() -> None:
    async def test(admission: Admission, free: threading.Event, refusals: list[str]) -> None:
        both = [asyncio.create_task(admission.run(free.wait, 10)) for _ in range(2)]
        await until(lambda: admission.in_flight == 2)
        with pytest.raises(ServingError, match="try again later") as caught:
            await admission.run(print)
        assert (caught.value.code, refusals) == ("RESOURCE_EXHAUSTED", ["RESOURCE_EXHAUSTED"])
        free.set()
        assert await asyncio.gather(*both) == [True, True]
        await until(lambda: admission.in_flight == 0)
        assert await admission.run(lambda x: x + 1, 1) == 2

    with_busy(test)


def test_at_the_end_none_is_taken_and_what_runs_ends() -> None:
    async def test(admission: Admission, free: threading.Event, refusals: list[str]) -> None:
        running = asyncio.create_task(admission.run(free.wait, 10))
        await until(lambda: admission.in_flight == 1)
        admission.is_draining = True
        with pytest.raises(ServingError, match="shutting down") as caught:
            await admission.run(print)
        assert (caught.value.code, refusals) == ("UNAVAILABLE", ["UNAVAILABLE"])
        free.set()
        assert await running

    with_busy(test)


def test_who_gives_up_while_waiting_is_not_begun() -> None:
    async def test(admission: Admission, free: threading.Event, refusals: list[str]) -> None:
        begun = threading.Event()
        running = asyncio.create_task(admission.run(free.wait, 10))
        waiting = asyncio.create_task(admission.run(begun.set))
        await until(lambda: admission.in_flight == 2)
        waiting.cancel()
        await until(lambda: admission.in_flight == 1)
        # One that runs counts until it has ended, whoever still waits for it.
        running.cancel()
        await asyncio.sleep(0.01)
        assert admission.in_flight == 1
        free.set()
        await until(lambda: admission.in_flight == 0)
        assert not begun.is_set()

    with_busy(test)


def test_what_runs_on_other_threads_counts_and_keeps_none_waiting() -> None:
    async def test(admission: Admission, free: threading.Event, refusals: list[str]) -> None:
        with ThreadPoolExecutor(1) as others:
            aside = asyncio.create_task(admission.run(free.wait, 10, threads=others))
            await until(lambda: admission.in_flight == 1)
            assert await admission.run(lambda: "quick") == "quick"
            assert admission.in_flight == 1
            free.set()
            assert await aside
        await until(lambda: admission.in_flight == 0)

    with_busy(test)


def test_errors_come_back() -> None:
    async def test(admission: Admission, free: threading.Event, refusals: list[str]) -> None:
        with pytest.raises(ZeroDivisionError):
            await admission.run(divmod, 1, 0)
        await until(lambda: admission.in_flight == 0)

    with_busy(test)


@pytest.mark.parametrize(("running", "waiting"), [(0, 1), (1, -1)])
def test_limits(running: int, waiting: int) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        Admission(running, waiting)
