"""`nas.evolve`: from a supernet and a latency table to a network within a latency budget."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas._fingerprint import fingerprint_of_modules
from nas._progress import say_to_terminal
from nas.errors import StorageError, TableError
from nas.quality import Scorer
from nas.search._actions import FULL, Latencies, can_copy
from nas.search._budget import Profile, doubt_about, profile, safety_margin
from nas.search._finalists import Finalists, Measure
from nas.search._finish import Finish
from nas.search._greedy import Greedy
from nas.search._journal import Journal
from nas.search._judging import Case, Judge
from nas.search._result import Evolution
from nas.search._rounds import Rounds
from nas.search._settings import Settings, fingerprint_of_latencies, fingerprint_of_space
from nas.search._steps import Step
from nas.search._strategy import Strategy
from nas.search._training import Lessons
from nas.search._weights import Weights

if TYPE_CHECKING:
    from torch import nn

    from nas.supernet import Supernet
    from nas.training import TrainingData
    from nas.workload import Workload

Report = Callable[[str], object]


def evolve(
    supernet: Supernet,
    lut: Latencies,
    *,
    budget_ms: float,
    scorer: Scorer,
    workdir: str | os.PathLike[str],
    margin: float | None = None,
    seed: int = 0,
    data: TrainingData | None = None,
    teacher: nn.Module | None = None,
    scheduler: Any = None,
    probe_steps: int = 0,
    train_steps: int = 0,
    final_steps: int = 0,
    training: Mapping[str, Any] | None = None,
    group_size: int | float = 0.5,
    candidates: int | None = None,
    exchanges: int = 0,
    first_look: int | None = None,
    max_rounds: int = 100,
    strategy: Strategy | None = None,
    finalists: int = 3,
    measure: bool | Measure = True,
    storage: str | None = None,
    workload: Workload | None = None,
    report: Report | None = None,
) -> Evolution:
    """Evolve a network to a latency budget: Algorithm 1 of SnapFusion (https://arxiv.org/abs/2306.00980).

    In each round the supernet is trained at its current architecture (`train_steps`), then every possible action is
    judged: removing a block while the network is over the budget; putting a removed one back or duplicating one while
    it is under. An action's value is its score difference, paired by prompt with the current network's score, a
    millisecond of predicted latency. The removals of least value are done, or the additions of most, of which copies
    must gain beyond the noise. When nothing can be added that fits and gains, the best networks so far are measured in
    turns with the full one, and the best that keeps the budget by the clock (give or take 1 %) is the result. Where
    none does, the search goes on to a budget that is lower by what the table was wrong. A machine on which the full
    network takes longer than in the table is disturbed: the networks are measured again, and if that stays so, what it
    takes longer is not held against them; `slowdown` in the result says so.

    Every judged candidate is a trial of an Optuna study. A run that was stopped at any point, called again with the
    same arguments, reads what was finished and goes on to the same result. The supernet is left as it was given.

    Args:
        supernet: the search starts from its `current` architecture and its weights.
        lut: latency table of the supernet's space.
        budget_ms: latency of one run of the UNet to get under, as the table predicts it. What a budget for a whole
            image leaves for it: `nas.ImageLatency.unet_budget_ms`.
        scorer: judge of quality, higher is better.
        workdir: folder of this run: journal, checkpoints, and in the end the network. One run a folder.
        margin: a quantile, such as 0.9, of how much slower than predicted the networks of the table's validation were;
            the search then gets under budget_ms / (1 + that), so that about so many networks of a hundred are within
            the budget when measured. None trusts the prediction.
        seed: decides all training.
        data: latents and text states to train with; needed if anything is trained.
        teacher: what is distilled from; the full network with the supernet's weights at the start when None. One that
            shares the supernet's weights is copied first.
        scheduler: noise schedule and prediction type of the training.
        probe_steps: distillation steps for each candidate before it is judged, undone afterwards; the current network
            gets the same before it serves as the yardstick. Without them a copy that starts as the identity cannot
            gain.
        train_steps: steps of robust training (stochastic skipping, with the teacher) before each round.
        final_steps: distillation steps for the result, without skipping.
        training: further options of all training: batch_size, learning_rate, ...
        group_size: how many actions are done at a time: a number (int) or the share of the remaining gap (float), see
            `nas.search.Greedy`.
        candidates: None judges everything in every round; a number only so many, the best of the last ranking, see
            `nas.search.Greedy`.
        exchanges: how many additions that do not fit may be tried, each made up for by removals, see
            `nas.search.Greedy`.
        first_look: judge on this many prompts first, and only the better half of the candidates on all of them.
        max_rounds: after so many rounds what must still be removed goes at once and nothing is added.
        strategy: replaces the greedy one and its three options.
        finalists: how many networks within the budget are measured at most.
        measure: whether to measure the finalists and the full network on the table's device (nothing is measured where
            that is not here); or a function that does, from a network to ms. With False the table has the last word.
        storage: an Optuna storage URL; a journal file in `workdir` when None.
        workload: what the network shall be used for, a table measured for anything else is refused; the table's own
            when None.
        report: called with each line for people; when None they go to stderr, if that is a terminal.

    Warns:
        UserWarning: the table was fitted to whole networks and says itself that it is not usable; the reason is in
            the message. What is found is then to be measured before it is believed.

    Raises:
        BudgetError: the budget is no positive number or cannot be met; the message says what can.
        TableError: the table is of another search space or workload, or a margin is asked for and the table has no
            validation.
        SearchError: an option makes no sense, or `workdir` holds another run.
        StorageError: `workdir` cannot be written.
    """
    if workload is not None:
        lut.require(workload)
    settings = Settings(seed, probe_steps, train_steps, final_steps, max_rounds, first_look, dict(training or {}))
    search = _Search(
        supernet=supernet,
        lut=lut,
        scorer=scorer,
        workdir=Path(workdir),
        settings=settings,
        strategy=strategy or Greedy(group_size, candidates, exchanges),
        tell=report or say_to_terminal,
    )
    by_clock = Finalists(supernet, lut, float(budget_ms), finalists, measure, search.tell)
    safety = 0.0 if margin is None else safety_margin(lut, margin)
    if doubt := doubt_about(lut):
        search.tell(f"Warning: {doubt}")
        warnings.warn(doubt, UserWarning, stacklevel=2)
    outlook = search.look(budget_ms, safety)
    lessons = Lessons.of(supernet, settings, search.workdir, data=data, teacher=teacher, scheduler=scheduler)
    found = search.run(outlook.budget_ms, lessons, storage, by_clock)
    result = replace(found, safety_margin=safety)
    search.tell(repr(result))
    return result


@dataclass
class _Search:
    """The parts of a search, put together; see `evolve`."""

    supernet: Supernet
    lut: Latencies
    scorer: Scorer
    workdir: Path
    settings: Settings
    strategy: Strategy
    tell: Report

    def look(self, budget_ms: float, safety: float) -> Profile:
        """Say what the space offers, and refuse what cannot be."""
        space = self.supernet.space
        table_space = getattr(self.lut, "space", space)
        if table_space.blocks != space.blocks:
            raise TableError(
                f"the latency table is of the search space {table_space.name!r}, which has other blocks than the "
                f"supernet's {space.name!r}; measure one for it with nas.LatencyTable.measure"
            )
        outlook = profile(space, self.lut).for_budget(budget_ms, safety_margin=safety)
        if safety:
            self.tell(f"safety margin {safety:.1%}: the search gets under {outlook.budget_ms:.2f} ms by the table")
        for line in str(outlook).splitlines():
            self.tell(line)
        return outlook

    def run(self, budget_ms: float, lessons: Lessons, storage: str | None, finalists: Finalists) -> Evolution:
        """From the first candidate, or the first that the journal lacks, to the result."""
        _make(self.workdir)
        identity = self._identity(budget_ms, lessons) | finalists.identity()
        journal = Journal.open(self.workdir, storage, identity, self.supernet.space)
        weights = Weights(self.supernet, self.workdir, lessons.train if self.settings.train_steps else None)
        probe, first_look = lessons.probation() if self.settings.probe_steps else None, self.settings.first_look
        judge = Judge(self.supernet, self.scorer, self.lut, journal, weights, probe, first_look)
        rounds = self._rounds(budget_ms, judge, weights)
        try:
            full = judge.judge(Case(0, FULL, self.supernet.space.full))
            rounds.run(self.supernet.current)
            found = finalists.choose(rounds, journal)
            finish = Finish(self.lut, self.workdir, lessons)
            return finish(found, rounds.steps, finalists.budget_ms, judge, full.score)
        finally:
            weights.put_back()

    def _rounds(self, budget_ms: float, judge: Judge, weights: Weights) -> Rounds:
        # Where a copy starts as the identity and nothing trains it before it is judged, its gain is exactly zero.
        changes = self.settings.probe_steps > 0 or self.supernet.duplicate_init != "identity"
        return Rounds(
            space=self.supernet.space,
            lut=self.lut,
            judge=judge,
            weights=weights,
            strategy=self.strategy,
            budget_ms=budget_ms,
            max_rounds=self.settings.max_rounds,
            copies=changes and can_copy(self.supernet.space, self.lut),
            on_step=self._say,
        )

    def _say(self, step: Step, budget_ms: float) -> None:
        name = str(self.scorer.describe().get("scorer", "score")).replace("_", " ")
        for line in step.lines(name=name, budget_ms=budget_ms):
            self.tell(line)

    def _identity(self, budget_ms: float, lessons: Lessons) -> dict[str, Any]:
        space = self.supernet.space
        return {
            "space": fingerprint_of_space(space),
            "start": str(self.supernet.current),
            "weights": fingerprint_of_modules(self.supernet.unet),
            "duplicate_init": self.supernet.duplicate_init,
            "latencies": fingerprint_of_latencies(space, self.lut),
            "budget_ms": budget_ms,
            "scorer": self.scorer.describe(),
            "strategy": self.strategy.describe(),
            "lessons": lessons.describe(),
            **self.settings.identity(),
        }


def _make(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {workdir}: {error.strerror or error}") from error
