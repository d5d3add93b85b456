from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from nas import LatencyTable, SearchSpace, Workload
from nas.errors import DeviceError, ModelError, TableError
from nas.latency import Timing, Validation, measure_network_ms
from nas.latency.devices import Device, Runnable
from nas.latency.testing import FakeDevice
from nas.unet import make_network


def test_the_full_network_is_measured_as_predicted(fake_table: LatencyTable, tiny_unet: UNet2DConditionModel) -> None:
    row = measure_network_ms(tiny_unet, fake_table, device=FakeDevice())
    assert row.latency_ms == pytest.approx(fake_table.latency_ms(fake_table.space.full))
    assert row.drift == 0


def test_a_network_really_runs(tiny_space: SearchSpace, one_thread: Device, quick: Timing) -> None:
    network = make_network(tiny_space, tiny_space.full.remove("mid.attention.0"))
    calls: list[tuple[torch.Size, bool]] = []
    network.conv_in.register_forward_hook(
        lambda m, args, out: calls.append((out.shape, torch.is_inference_mode_enabled()))
    )
    row = measure_network_ms(network, Workload.of(tiny_space, batch_size=3), device=one_thread, timing=quick)
    assert row.latency_ms > 0
    # Once to warm up and once timed.
    assert calls == [(torch.Size([3, 8, 8, 8]), True)] * 2


def test_training_networks_are_measured_in_eval_mode_and_left_training(
    tiny_space: SearchSpace, tiny_unet: UNet2DConditionModel, one_thread: Device, quick: Timing
) -> None:
    tiny_unet.train()
    modes: list[bool] = []
    tiny_unet.conv_in.register_forward_hook(lambda module, args, out: modes.append(module.training))
    measure_network_ms(tiny_unet, Workload.of(tiny_space), device=one_thread, timing=quick)
    assert modes == [False, False]
    assert all(module.training for module in tiny_unet.modules())


def test_the_tables_device_must_be_here(fake_table: LatencyTable, tiny_unet: UNet2DConditionModel) -> None:
    with pytest.raises(DeviceError, match="'fake'"):
        measure_network_ms(tiny_unet, fake_table)


def test_what_is_no_unet_is_refused(fake_table: LatencyTable) -> None:
    with pytest.raises(ModelError, match="Linear"):
        measure_network_ms(torch.nn.Linear(2, 2), fake_table, device=FakeDevice())


def test_an_interrupted_validation_goes_on_to_the_same_figures(fake_table: LatencyTable, tmp_path: Path) -> None:
    class Stopping(FakeDevice):
        def load(self, *args: object, **kwargs: object) -> Runnable:
            if len(self.loaded) == 5:
                raise KeyboardInterrupt
            return super().load(*args, **kwargs)

    def validate(device: FakeDevice, **options: Any) -> Validation:
        return copy.copy(fake_table).validate(networks=4, device=device, visits=tmp_path / "visits", **options)

    whole = copy.copy(fake_table).validate(networks=4, device=FakeDevice())
    with pytest.raises(KeyboardInterrupt):
        validate(Stopping())
    with pytest.raises(TableError, match="another measurement"):
        validate(FakeDevice(), seed=1)
    rest = FakeDevice()
    assert validate(rest).pairs == whole.pairs
    assert 1 < len(rest.loaded) < 1 + 2 * 5 + 1
