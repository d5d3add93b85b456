"""The search with the real parts: a measured table, a real scorer, real training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

import nas
from nas import Architecture, Evolution, LatencyTable, SearchSpace, Supernet, TeacherDistance, Workload
from nas.demo import SMOKE
from nas.errors import DeviceError
from nas.latency import Row, Timing, measure_network_ms
from nas.training import TrainingData

ONCE = SMOKE.timing


def made_up_table(space: SearchSpace, device: str = "torch-cpu") -> LatencyTable:
    """1 ms a block, nothing for a shortcut."""
    workload = Workload.of(space)
    rows = {}
    for block in space.blocks:
        for signature in (block.signature(workload), block.signature(workload, copy=True)):
            rows[signature] = Row(1.0, 0.0, 1, 0.0)
        if shortcut := block.shortcut_signature(workload):
            rows[shortcut] = Row(1e-6, 0.0, 1, 0.0)
    return LatencyTable(space, workload, rows, Row(20.0, 0.0, 1, 0.0), {"device": device})


def test_search_with_probes_training_and_measuring(
    tiny_unet: UNet2DConditionModel, small_space: SearchSpace, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    latents, contexts = torch.randn(3, 4, 8, 8, generator=generator), torch.randn(3, 5, 12, generator=generator)
    judge = TeacherDistance(tiny_unet, latents, contexts)
    lut = made_up_table(small_space)
    result = nas.evolve(
        Supernet(tiny_unet, small_space),
        lut,
        budget_ms=27.0,
        scorer=judge,
        workdir=tmp_path,
        data=TrainingData(latents, contexts, torch.zeros(1, 5, 12)),
        teacher=tiny_unet,
        scheduler=DDIMScheduler(),
        probe_steps=1,
        final_steps=1,
        training={"batch_size": 2, "learning_rate": 1e-3},
        group_size=1.0,
        max_rounds=1,
        measure=lambda unet: measure_network_ms(unet, lut, timing=ONCE).latency_ms,
    )
    assert result.predicted_ms <= result.budget_ms
    assert result.measured_ms > 0
    assert result.full_ms > 0
    assert result.full_score.mean == pytest.approx(0, abs=1e-6)
    # Probed as its rivals are, the full network has nothing to learn from itself; they do.
    first = result.history[result.history["round"] == 0].set_index("action")
    assert first.score["keep"] == pytest.approx(0, abs=1e-6)
    removal = result.history[result.history.action == "remove"].iloc[0]
    network = Supernet(tiny_unet, small_space).candidate(Architecture.parse(removal.architecture))
    assert removal.score != pytest.approx(judge(network).mean, abs=1e-6)
    kept = UNet2DConditionModel.from_config(result.unet.config)  # a stock class knows the config
    assert kept.config.block_out_channels == tiny_unet.config.block_out_channels


@pytest.mark.parametrize("slower_at_looks", [(0.0,), (-0.1,), (0.3, 0.0), (0.2, 0.4, 0.3), (0.4, 0.2, 0.3)])
def test_the_finalists_are_measured_on_the_tables_device(
    evolve: Callable[..., Evolution],
    small_space: SearchSpace,
    monkeypatch: pytest.MonkeyPatch,
    slower_at_looks: tuple[float, ...],
) -> None:
    lut = replace(made_up_table(small_space), wholes={small_space.full: Row(30.0, 0.0, 1, 0.0)})
    asked, speeds = [], iter(slower_at_looks)

    def measure(unets: dict, table: LatencyTable, *, timing: Timing) -> dict[str, Row]:
        asked.append(([str(unet.architecture) for unet in unets.values()], table))
        slower = 1 + next(speeds)
        return {name: Row(slower * (30.0 if name == "full" else 25.0), 0.0, 1, 0.3) for name in unets}

    monkeypatch.setattr("nas.latency.measure_networks_ms", measure)
    result = evolve(lut=lut, budget_ms=27.0, measure=True)
    # A machine that is slower than it was is looked at again, and its best look counts, but not against the network.
    slowdown = min(slower_at_looks)
    assert result.slowdown == pytest.approx(slowdown)
    assert (result.measured_ms, result.full_ms) == pytest.approx((25.0 * (1 + slowdown), 30.0 * (1 + slowdown)))
    assert len(asked) == len(slower_at_looks)
    for networks, table in asked:
        assert networks[0] == str(result.architecture)
        assert networks[-1] == str(small_space.full)
        assert table is lut
    assert result.prediction_error == pytest.approx(result.predicted_ms / 25.0 / (1 + slowdown) - 1)
    assert result.prediction_error_at_equal_speed == pytest.approx(result.predicted_ms / 25.0 - 1)


def test_on_a_device_that_is_elsewhere_nothing_is_measured(
    evolve: Callable[..., Evolution], small_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(unets: dict, table: LatencyTable, *, timing: Timing) -> dict[str, Row]:
        raise DeviceError("no such device here")

    monkeypatch.setattr("nas.latency.measure_networks_ms", refuse)
    result = evolve(lut=made_up_table(small_space), budget_ms=27.0, measure=True)
    assert result.measured_ms is None
    assert result.full_ms == result.predicted_full_ms


def test_a_teacher_that_shares_the_weights_is_copied(
    tiny_unet: UNet2DConditionModel, small_space: SearchSpace, tmp_path: Path
) -> None:
    from nas.search._settings import Settings
    from nas.search._training import Lessons

    data = TrainingData(torch.zeros(1, 4, 8, 8), torch.zeros(1, 5, 12), torch.zeros(1, 5, 12))
    supernet, settings = Supernet(tiny_unet, small_space), Settings(train_steps=1)
    options = {"data": data, "scheduler": DDIMScheduler()}
    shared = Lessons.of(supernet, settings, tmp_path, teacher=tiny_unet, **options).teacher
    made = Lessons.of(supernet, settings, tmp_path, teacher=None, **options).teacher
    own = {id(parameter) for parameter in supernet.parameters()}
    for teacher in (shared, made):
        assert not own & {id(parameter) for parameter in teacher.parameters()}
        assert torch.equal(teacher.conv_in.weight, tiny_unet.conv_in.weight)
    other = UNet2DConditionModel.from_config(tiny_unet.config)
    assert Lessons.of(supernet, settings, tmp_path, teacher=other, **options).teacher is other
