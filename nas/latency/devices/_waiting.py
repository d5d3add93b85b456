"""Waiting for coroutines from ordinary code."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from threading import Thread, current_thread
from typing import Any, TypeVar

Result = TypeVar("Result")


class Waiting:
    """An event loop on a thread of its own, so that it works where a loop runs already, as in notebooks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        weakref.finalize(self, _stop, self._loop, self._thread)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run it to its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def finish(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it to its end, or some time later where a finalizer calls this on the loop's own thread."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        if current_thread() is not self._thread:
            future.result()


def _stop(loop: asyncio.AbstractEventLoop, thread: Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    # A finalizer runs on whatever thread collects the garbage, also on the loop's own.
    if current_thread() is not thread:
        thread.join()
        loop.close()
