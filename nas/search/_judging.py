"""Judging candidates: probe, score, pair with the current network, write down. What the journal has is only read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from nas.architecture import Architecture
from nas.errors import SearchError
from nas.quality import Score, Scorer
from nas.search._actions import FULL, RESULT, Action, Latencies
from nas.search._journal import Journal, Record
from nas.search._strategy import Judgement

if TYPE_CHECKING:
    from nas.supernet import EvolvedUNet, Supernet

COMPLETE = "complete"
FIRST_LOOK = "first look"

Probe = Callable[["EvolvedUNet"], AbstractContextManager[object]]


@dataclass(frozen=True)
class Case:
    """What is to be judged.

    Attributes:
        round: number of the round.
        action: what is done.
        current: the network it is done to.
        yardstick: the score that the candidate's is paired with, over all prompts; None to pair it with itself.
        stage: "complete", or "first look" for the first few prompts only.
        trained: whether the network was trained apart from the supernet, so that no other has its score.
    """

    round: int
    action: Action
    current: Architecture
    yardstick: Score | None = None
    stage: str = COMPLETE
    trained: bool = False

    @property
    def architecture(self) -> Architecture:
        """The candidate."""
        return self.action.apply(self.current)

    def key(self, stage: str | None = None) -> tuple[int, str, str, str]:
        """Its name in the journal."""
        return self.round, self.action.kind, self.action.place, stage or self.stage

    @property
    def is_move(self) -> bool:
        """Whether it is one of a round's networks, which are probed, and not the one before or after the search."""
        return self.action not in (FULL, RESULT)

    def difference(self, score: Score) -> Any:
        """The candidate's score less the yardstick's, over the prompts that the candidate has."""
        if self.yardstick is None:
            return score.minus(score)
        return score.minus(_first(self.yardstick, len(score.values)))


class WeightsClock(Protocol):
    """Tells which weights the supernet has; see `nas.search._weights.Weights`."""

    @property
    def version(self) -> int:
        """Number of the last round of training that is in the weights."""

    @property
    def ahead(self) -> bool:
        """Whether the weights are of a later round than the one being replayed: nothing may be judged with them."""


@dataclass
class Judge:
    """Gives candidates their figures.

    Attributes:
        supernet: where the candidates' weights are.
        scorer: the judge of quality.
        lut: latencies.
        journal: the ledger.
        weights: tells which weights the supernet has.
        probe: trains a candidate for the time of a `with` block, or None.
        first_look: how many prompts a first look takes, or None.
    """

    supernet: Supernet
    scorer: Scorer
    lut: Latencies
    journal: Journal
    weights: WeightsClock
    probe: Probe | None = None
    first_look: int | None = None
    _scored: dict[tuple[object, ...], Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.first_look is not None and not hasattr(self.scorer, "subset"):
            raise SearchError(f"first_look needs a scorer with subset(n), which {type(self.scorer).__name__} has not")

    def judge(self, case: Case, network: EvolvedUNet | None = None) -> Judgement:
        """The figures of a case, from the journal where it has them.

        Args:
            case: what is judged.
            network: the candidate's network; taken from the supernet when None.

        Raises:
            SearchError: the journal has another network under the same name.
        """
        record = self.journal.records.get(case.key())
        if record is None:
            record = self._evaluate(case, network)
            self.journal.add(record, case.architecture)
        elif record.architecture != str(case.architecture):
            raise SearchError(
                f"the journal has another network for {case.action} in round {case.round}; give another workdir"
            )
        self._scored.setdefault(self._treatment(case), record)
        return _judgement(record, case)

    def _evaluate(self, case: Case, network: EvolvedUNet | None) -> Record:
        started = time.perf_counter()
        known = self._scored.get(self._treatment(case))
        score = known.to_score() if known else self._score(case, network)
        latency_ms = self.lut.latency_ms(case.architecture)
        change_ms = latency_ms - self.lut.latency_ms(case.current)
        difference = case.difference(score)
        return Record(
            round=case.round,
            action=case.action.kind,
            place=case.action.place,
            stage=case.stage,
            architecture=str(case.architecture),
            predicted_ms=latency_ms,
            delta_ms=change_ms,
            score=score.mean,
            low=score.low,
            high=score.high,
            values=tuple(float(value) for value in score.values),
            score_seconds=score.seconds,
            seconds=time.perf_counter() - started,
            delta_score=difference.mean,
            delta_low=difference.low,
            delta_high=difference.high,
            settled=bool(difference.settled),
            value=difference.mean / change_ms if change_ms else None,
            reused=known is not None,
        )

    def _score(self, case: Case, network: EvolvedUNet | None) -> Score:
        if network is None:
            if self.weights.ahead:
                raise SearchError(
                    f"the journal lacks {case.action} of round {case.round}, and the weights of that round are gone; "
                    "give another workdir"
                )
            network = self.supernet.candidate(case.architecture)
        with self.probe(network) if self.probe and case.is_move else nullcontext():
            score = self._score_of(network, case)
        if not math.isfinite(score.mean):
            raise SearchError(f"the score of {case.action} is {score.mean}; a scorer must give finite numbers")
        return score

    def _score_of(self, network: EvolvedUNet, case: Case) -> Score:
        if case.stage == FIRST_LOOK:
            return self.scorer.subset(self.first_look)(network)
        looked = self.journal.records.get(case.key(FIRST_LOOK))
        if looked is None:
            return self.scorer(network)
        # Only the prompts that the first look left out are missing.
        rest = len(case.yardstick.values) - len(looked.values)
        return looked.to_score().joined(self.scorer.subset(rest, first=len(looked.values))(network))

    def _treatment(self, case: Case) -> tuple[object, ...]:
        """Equal architecture, weights, probing and prompts give an equal score."""
        return case.architecture, self.weights.version, case.stage, bool(self.probe) and case.is_move, case.trained


def _first(score: Score, count: int) -> Score:
    return score if count == len(score.values) else Score.of(score.values[:count])


def _judgement(record: Record, case: Case) -> Judgement:
    score = record.to_score()
    return Judgement(
        action=case.action,
        architecture=case.architecture,
        latency_ms=record.predicted_ms,
        delta_ms=record.delta_ms,
        score=score,
        difference=case.difference(score),
        round=record.round,
        complete=record.stage == COMPLETE,
    )
