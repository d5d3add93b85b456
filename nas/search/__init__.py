"""The search: from a supernet and a latency table to a network within a budget."""

from __future__ import annotations

from nas.search._actions import Action
from nas.search._budget import Profile, profile, safety_margin
from nas.search._evolve import evolve
from nas.search._greedy import Greedy
from nas.search._random import random_architecture_at
from nas.search._result import Evolution
from nas.search._settings import fingerprint_of_latencies
from nas.search._steps import Move, Step
from nas.search._strategy import Judgement, State, Strategy

__all__ = [
    "Action",
    "Evolution",
    "Greedy",
    "Judgement",
    "Move",
    "Profile",
    "State",
    "Step",
    "Strategy",
    "evolve",
    "fingerprint_of_latencies",
    "profile",
    "random_architecture_at",
    "safety_margin",
]
