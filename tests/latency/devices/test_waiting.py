from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from nas.latency.devices._waiting import Waiting


async def doubled(value: int) -> int:
    await asyncio.sleep(0)
    return 2 * value


def test_waits_also_where_a_loop_runs_already() -> None:
    waiting = Waiting()

    async def notebook_cell() -> int:
        return waiting.run(doubled(2))

    assert waiting.run(doubled(1)) == 2
    assert asyncio.run(notebook_cell()) == 4


def test_errors_come_through_and_the_thread_ends() -> None:
    async def broken() -> None:
        raise KeyError("lost")

    before = threading.active_count()
    waiting = Waiting()
    with pytest.raises(KeyError, match="lost"):
        waiting.run(broken())
    assert threading.active_count() == before + 1
    del waiting
    gc.collect()  # the error's traceback refers to it
    assert threading.active_count() == before


def test_finishing_waits_except_on_the_loops_own_thread() -> None:
    waiting, done = Waiting(), threading.Event()

    async def note() -> None:
        done.set()

    async def finalizer() -> None:
        waiting.finish(note())

    waiting.finish(note())
    assert done.is_set()
    done.clear()
    waiting.run(finalizer())
    assert done.wait(5)
