"""Progress bars with an ETA, on stderr, silent when nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def track(
    iterable: Iterable[Any] | None = None, *, description: str, total: int | None = None, delay: float = 0.0
) -> tqdm:
    """Wrap `iterable` in a progress bar; without one, the bar is advanced by hand with `.update()`.

    With a `delay` the bar is only shown where the work takes longer than so many seconds.
    """
    hidden = not sys.stderr.isatty()
    return tqdm(iterable, desc=description, total=total, file=sys.stderr, disable=hidden, leave=False, delay=delay)


def say_to_terminal(message: str) -> None:
    """The same where stderr is a terminal, else nothing."""
    if sys.stderr.isatty():
        say(message)


def say(message: str) -> None:
    """Print a line for people to stderr without tearing a running bar."""
    tqdm.write(message, file=sys.stderr)
