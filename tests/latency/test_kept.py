from __future__ import annotations

from functools import partial

import pytest

from nas.latency._kept import Kept


class Loaded:
    """Something with weights."""

    def __init__(self, weight_mb: float) -> None:
        self.weight_mb = weight_mb


def loads(megabytes: float, sizes_mb: dict[str, float], order: str) -> str:
    """Which of the names in `order` had to be loaded."""
    kept, loaded = Kept(megabytes), []

    def load(name: str) -> Loaded:
        loaded.append(name)
        return Loaded(sizes_mb[name])

    for name in order:
        assert kept.get(name, partial(load, name)).weight_mb == sizes_mb[name]
    return "".join(loaded)


SIZES_MB = {"a": 1.0, "b": 2.0, "c": 3.0, "n": 0.0}


@pytest.mark.parametrize(
    ("megabytes", "order", "loaded"),
    [
        (6, "abccba", "abc"),  # all fit
        (5, "abccba", "abca"),  # the one used longest ago goes
        (3, "abaabc", "abc"),
        (3, "abacab", "abcab"),  # a large one displaces all others
        (2, "cc", "cc"),  # too large by itself
        (0, "aann", "aann"),  # nothing is kept, not even what has no weights
        (1, "nn", "n"),
    ],
)
def test_what_was_used_last_is_kept_as_far_as_there_is_room(megabytes: float, order: str, loaded: str) -> None:
    assert loads(megabytes, SIZES_MB, order) == loaded
