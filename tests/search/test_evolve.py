"""The whole search, against figures that are known."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from fakes import AdditiveScorer, AdditiveTable, QuickSupernet, best_by_brute_force

from nas import Evolution, LatencyTable, SearchSpace, Supernet, Workload
from nas.errors import SearchError, StorageError, TableError
from nas.latency import Pair, Validation
from nas.search import Greedy


def test_with_equal_costs_the_result_is_the_best_of_all(
    evolve: Callable[..., Evolution], even_table: AdditiveTable, scorer: AdditiveScorer, small_space: SearchSpace
) -> None:
    result = evolve(lut=even_table, budget_ms=24.0, group_size=1)
    assert result.predicted_ms == 24.0
    assert scorer.mean(result.architecture) == pytest.approx(best_by_brute_force(small_space, even_table, scorer, 24.0))
    assert len(result.steps) == 6
    lost = scorer.mean(small_space.full) - scorer.mean(result.architecture)
    assert result.full_score.mean - result.score.mean == pytest.approx(lost)


def test_a_margin_leaves_room_for_the_tables_error(
    evolve: Callable[..., Evolution], even_table: AdditiveTable, small_space: SearchSpace, tmp_path: Path
) -> None:
    class Validated(AdditiveTable):
        # One network of five took 12.5 % longer than predicted.
        validation = Validation(tuple(Pair("mid.resnet=1,1", 8.0, ms) for ms in (7.0, 8.0, 8.0, 8.0, 9.0)))

    table = Validated(small_space, even_table.cost_ms, even_table.base_ms)
    said: list[str] = []
    careful = evolve(lut=table, budget_ms=27.0, margin=1.0, group_size=1, report=said.append)
    assert (careful.predicted_ms, careful.budget_ms) == (24.0, 27.0)
    assert careful.safety_margin == pytest.approx(0.125)
    assert any("safety margin 12.5%" in line and "24.00 ms" in line for line in said)
    assert "budget 27.00 ms" in said[-1]
    again = evolve(lut=table, budget_ms=27.0, margin=1.0, group_size=1)
    assert again.architecture == careful.architecture
    careful.save(tmp_path / "saved")
    assert Evolution.load(tmp_path / "saved").safety_margin == careful.safety_margin
    trusting = evolve(lut=table, budget_ms=27.0, group_size=1, workdir=tmp_path / "trusting")
    assert (trusting.predicted_ms, trusting.safety_margin) == (27.0, 0.0)
    with pytest.raises(TableError, match="no validation"):
        evolve(lut=even_table, budget_ms=27.0, margin=0.9, workdir=tmp_path / "unvalidated")


def test_a_table_that_says_it_is_not_usable_is_warned_about(
    evolve: Callable[..., Evolution], even_table: AdditiveTable, small_space: SearchSpace
) -> None:
    rng = random.Random(0)
    networks = [small_space.sample(rng) for _ in range(60)]
    latencies_ms = [100 * rng.random() + even_table.latency_ms(network) for network in networks]
    workload = Workload.of(small_space)
    fit = {"device": "phone", "workload": workload, "keep_unusable": True}
    noisy = LatencyTable.fit(small_space, networks, latencies_ms, **fit)
    said: list[str] = []
    budget_ms = (noisy.base_ms + noisy.latency_ms(small_space.full)) / 2
    with pytest.warns(UserWarning, match="fitted to whole networks and is marked as not usable: cross-validated"):
        found = evolve(lut=noisy, budget_ms=budget_ms, report=said.append)
    assert found.predicted_ms <= budget_ms
    assert said[0].startswith("Warning: ")
    assert str(noisy.provenance["fit"]) in said[0]


@pytest.mark.parametrize("group_size", [1, 3, 0.3, 1.0])
def test_every_group_size_ends_within_the_budget(evolve: Callable[..., Evolution], group_size: float) -> None:
    result = evolve(group_size=group_size)
    assert result.predicted_ms <= result.budget_ms
    assert result.unet.architecture == result.architecture


def test_history_holds_what_the_steps_were_chosen_by(evolve: Callable[..., Evolution], scorer: AdditiveScorer) -> None:
    result = evolve(group_size=2)
    history = result.history
    assert set(history.action) == {"full", "keep", "remove", "result"} | set(history.action) & {"restore"}
    executed = history[history.executed]
    assert len(executed) == sum(len(step.moves) for step in result.steps)
    removals = history[history.action == "remove"]
    worth = [scorer.worth[place] for place in removals.place]
    assert removals.delta_score.tolist() == pytest.approx([-amount for amount in worth])
    assert removals.value.tolist() == pytest.approx([w / -ms for w, ms in zip(worth, removals.delta_ms, strict=True)])
    first = removals[removals["round"] == 0].sort_values("value")
    assert result.steps[0].moves[0].place == first.place.iloc[0]


def test_a_block_that_fits_again_is_put_back(
    evolve: Callable[..., Evolution], small_space: SearchSpace, places: list[str]
) -> None:
    # The first removal is the cheapest a millisecond, the second must be large; then there is room for the first again.
    table = AdditiveTable(small_space, {**dict.fromkeys(places, 9.0), places[0]: 1.0, places[1]: 5.0})
    scorer = AdditiveScorer({**dict.fromkeys(places, 9.0), places[0]: 0.01, places[1]: 0.06})
    result = evolve(lut=table, scorer=scorer, budget_ms=table.latency_ms(small_space.full) - 5.0, group_size=1)
    assert [str(move.action) for step in result.steps for move in step.moves] == ["remove", "remove", "restore"]
    assert result.removed == (places[1],)


def test_exchanges_get_out_of_a_local_optimum(
    evolve: Callable[..., Evolution], small_space: SearchSpace, places: list[str], tmp_path: Path
) -> None:
    # Worth least a millisecond goes first, and what is left of the gap costs more than another choice would have.
    cost = {**dict.fromkeys(places, 90.0), places[0]: 4.0, places[1]: 3.0, places[2]: 3.0}
    worth = {**dict.fromkeys(places, 90.0), places[0]: 0.04, places[1]: 0.033, places[2]: 0.033}
    table, scorer = AdditiveTable(small_space, cost), AdditiveScorer(worth)
    budget_ms = table.latency_ms(small_space.full) - 6.0
    best = best_by_brute_force(small_space, table, scorer, budget_ms)
    options = {"lut": table, "scorer": scorer, "budget_ms": budget_ms, "group_size": 1}
    stuck = evolve(**options, workdir=tmp_path / "stuck")
    freed = evolve(**options, exchanges=1, workdir=tmp_path / "freed")
    assert scorer.mean(stuck.architecture) < best
    assert scorer.mean(freed.architecture) == pytest.approx(best)


def test_with_room_the_most_valuable_block_is_duplicated(
    tiny_unet: torch.nn.Module, evolve: Callable[..., Evolution], even_table: AdditiveTable, scorer: AdditiveScorer
) -> None:
    scorer.copy_worth = 0.5
    supernet = QuickSupernet(tiny_unet, even_table.space, duplicate_init="plain")
    result = evolve(supernet=supernet, lut=even_table, budget_ms=32.5, group_size=1)
    best = sorted(scorer.worth, key=scorer.worth.get)[-2:]
    assert sorted(result.added) == sorted(best)
    assert result.predicted_ms == 32.0


def test_identity_copies_are_not_judged_when_nothing_trains_them(evolve: Callable[..., Evolution]) -> None:
    result = evolve()
    assert "duplicate" not in set(result.history.action)


def test_lazy_candidates_cost_less_and_find_the_same_when_values_do_not_change(
    evolve: Callable[..., Evolution], scorer: AdditiveScorer, tmp_path: Path
) -> None:
    every = evolve(group_size=1, workdir=tmp_path / "every")
    calls = len(scorer.calls)
    lazy = evolve(group_size=1, candidates=2, workdir=tmp_path / "lazy")
    assert lazy.architecture == every.architecture
    assert len(scorer.calls) - calls < 0.7 * calls


def test_a_first_look_judges_only_the_better_half_on_all_prompts(
    evolve: Callable[..., Evolution], scorer: AdditiveScorer, tmp_path: Path
) -> None:
    plain = evolve(group_size=1, workdir=tmp_path / "plain")
    looked = evolve(group_size=1, first_look=3, workdir=tmp_path / "looked")
    assert looked.architecture == plain.architecture
    first = looked.history[(looked.history["round"] == 0) & (looked.history.action == "remove")]
    assert first.stage.value_counts().to_dict() == {"first look": 10, "complete": 5}
    assert set(first.groupby("stage").prompts.first()) == {3, 8}
    # The complete score is made of the first look and the rest: no prompt is sampled twice.
    same = plain.history[(plain.history["round"] == 0) & (plain.history.action == "remove")].set_index("place").score
    complete = first[first.stage == "complete"].set_index("place").score
    assert complete.to_dict() == pytest.approx(same[complete.index].to_dict())
    assert max(prompts for _, prompts in scorer.calls[len(plain.history) :]) <= 8


def test_the_last_round_removes_all_that_is_left_at_once(evolve: Callable[..., Evolution]) -> None:
    result = evolve(group_size=1, max_rounds=2)
    assert [len(step.moves) > 1 for step in result.steps] == [False, True]
    assert result.predicted_ms <= result.budget_ms


def test_pareto_front_is_not_dominated(evolve: Callable[..., Evolution]) -> None:
    result = evolve()
    front = result.pareto
    assert front.latency_ms.is_monotonic_increasing
    assert front.score.is_monotonic_increasing
    for row in result.history.itertuples():
        better = front[(front.latency_ms <= row.predicted_ms) & (front.score >= row.score)]
        assert len(better) > 0


def test_optuna_reads_the_journal(evolve: Callable[..., Evolution], tmp_path: Path) -> None:
    result = evolve(workdir=tmp_path / "run")
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "run" / "journal.log"))
    study = optuna.load_study(study_name="evolve", storage=optuna.storages.JournalStorage(backend))
    assert len(study.trials) == len(result.history)
    assert {(t.values[0], t.values[1]) for t in study.best_trials} >= set(
        zip(result.pareto.latency_ms, result.pareto.score, strict=True)
    )
    assert study.metric_names == ["latency_ms", "score"]
    assert study.trials[2].params["down.0.resnet.0"] == "0"


def test_a_storage_url_takes_the_place_of_the_journal_file(
    tiny_unet: torch.nn.Module,
    small_space: SearchSpace,
    places: list[str],
    evolve: Callable[..., Evolution],
    table: AdditiveTable,
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    space = replace(small_space, fixed=small_space.fixed | set(places[3:]))
    supernet, lut = QuickSupernet(tiny_unet, space), replace(table, space=space)
    options = {"supernet": supernet, "lut": lut, "storage": url, "budget_ms": 0.99 * lut.latency_ms(space.full)}
    first = evolve(workdir=tmp_path / "one", **options)
    again = evolve(workdir=tmp_path / "one", **options)
    assert optuna.get_all_study_names(storage=url) == ["one"]
    assert again.history.equals(first.history)
    assert not (tmp_path / "one" / "journal.log").exists()


def test_measured_latencies_come_from_whoever_measures(
    evolve: Callable[..., Evolution], small_space: SearchSpace, tmp_path: Path
) -> None:
    seen = []

    def measure(network: object) -> float:
        seen.append(network.architecture)
        return 1.0 + len(seen)

    result = evolve(measure=measure, workdir=tmp_path / "a", finalists=1)
    assert seen == [result.architecture, small_space.full]
    for run in (result, evolve(measure=measure, workdir=tmp_path / "a", finalists=1)):
        assert (run.measured_ms, run.full_ms) == (2.0, 3.0)
    assert len(seen) == 2
    unmeasured = evolve(measure=False, workdir=tmp_path / "b")
    assert unmeasured.measured_ms is unmeasured.prediction_error is unmeasured.prediction_error_at_equal_speed is None
    assert unmeasured.full_ms == unmeasured.predicted_full_ms


def test_the_supernet_is_left_as_it_was(evolve: Callable[..., Evolution], supernet: Supernet) -> None:
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    evolve()
    after = supernet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_lines_for_people(evolve: Callable[..., Evolution]) -> None:
    lines: list[str] = []
    result = evolve(report=lines.append)
    assert [line.split()[0] for line in lines[:5]] == ["smallest", "typical", "full", "largest", "budget"]
    assert sum(line.startswith("round ") for line in lines) == sum(len(step.moves) for step in result.steps)
    assert "ms, additive -0." in lines[5]
    assert lines[-1].startswith("Evolution(")


def test_another_strategy_takes_over(evolve: Callable[..., Evolution]) -> None:
    class FromTheEnd(Greedy):
        """Removes whatever comes last."""

        def describe(self) -> dict:
            return {"name": "from the end"}

        def choose(self, state: object, judged: object) -> list:
            return [judged[-1].action] if state.over else []

    result = evolve(strategy=FromTheEnd())
    gone = list(result.removed)
    last = [block.place for block in result_space(result)][10 - len(gone) : 10]
    assert gone == last


def result_space(result: Evolution) -> tuple:
    return SearchSpace.from_config(
        {key: value for key, value in result.unet.config.items() if key not in ("architecture", "space_name")}
    ).blocks


def test_a_table_of_another_space_is_refused(evolve: Callable[..., Evolution], tiny_config: dict) -> None:
    other = SearchSpace.from_config({**tiny_config, "layers_per_block": 1}, name="other")
    table = AdditiveTable(other, {block.place: 1.0 for block in other.blocks})
    with pytest.raises(TableError, match="is of the search space 'other'"):
        evolve(lut=table, budget_ms=10.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": 1.5}, r"group_size is 1\.5"),
        ({"candidates": 0}, "candidates is 0"),
        ({"exchanges": -1}, "exchanges is -1"),
        ({"max_rounds": 0}, "max_rounds is 0"),
        ({"train_steps": -1}, "train_steps is -1"),
        ({"probe_steps": 1.5}, r"probe_steps is 1\.5"),
        ({"first_look": 1}, "first_look is 1"),
        ({"final_steps": 3}, "need data="),
    ],
)
def test_options_that_make_no_sense(evolve: Callable[..., Evolution], options: dict, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        evolve(**options)


def test_a_scorer_that_gives_nan_is_refused(evolve: Callable[..., Evolution], scorer: AdditiveScorer) -> None:
    class Broken(AdditiveScorer):
        def __call__(self, unet: object) -> object:
            from nas.quality import Score

            good = super().__call__(unet)
            return Score(float("nan"), 0.0, 0.0, good.values)

    with pytest.raises(SearchError, match="must give finite numbers"):
        evolve(scorer=Broken(scorer.worth))


def test_a_workdir_that_cannot_be_made(evolve: Callable[..., Evolution], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        evolve(workdir=tmp_path / "file" / "run")


def test_random_instances_with_noise_end_within_the_budget(
    evolve: Callable[..., Evolution], scorer: AdditiveScorer, tmp_path: Path
) -> None:
    scorer.noise = 0.05
    for seed in range(3):
        share = random.Random(seed).uniform(0.65, 0.95)
        budget_ms = share * 40.0
        result = evolve(budget_ms=budget_ms, workdir=tmp_path / str(seed), group_size=0.5, exchanges=1)
        assert result.predicted_ms <= budget_ms
