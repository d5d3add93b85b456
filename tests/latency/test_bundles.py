from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from nas import LatencyTable, SearchSpace
from nas.latency import Row
from nas.latency._bundles import bundle, bundle_size, row_of_bundle
from nas.latency.testing import FakeDevice
from nas.unet import make_network


def test_what_a_call_takes_is_in_the_base_alone(tiny_space: SearchSpace) -> None:
    device = FakeDevice(call_ms=7.0, bundle_mb=16.0)
    table = LatencyTable.measure(tiny_space, device=device)
    without_calls = LatencyTable.measure(tiny_space, device=FakeDevice())
    rows = {name: row.latency_ms for name, row in without_calls.rows.items()}
    assert {name: row.latency_ms for name, row in table.rows.items()} == pytest.approx(rows, abs=1e-5)
    assert table.base_ms == pytest.approx(without_calls.base_ms + 7.0)
    rng = random.Random(0)
    for architecture in (tiny_space.full, *(tiny_space.sample(rng) for _ in range(5))):
        whole_ms = device.cost_ms(make_network(tiny_space, architecture))
        assert table.latency_ms(architecture) == pytest.approx(whole_ms, rel=1e-4)


def test_without_bundles_calls_count_with_every_block(tiny_space: SearchSpace) -> None:
    table = LatencyTable.measure(tiny_space, device=FakeDevice(call_ms=7.0))
    assert all(row.latency_ms > 7.0 for row in table.rows.values())
    assert not any(name.startswith("bundle") for name in table.rows)


@pytest.mark.parametrize(
    ("module_mb", "bundle_mb", "size"), [(1, 0, 1), (9, 16, 1), (8, 16, 2), (3, 16, 5), (0.1, 16, 8), (0, 16, 1)]
)
def test_a_bundle_has_as_many_as_fit(module_mb: float, bundle_mb: float, size: int) -> None:
    assert bundle_size(module_mb, bundle_mb) == size


def test_a_bundle_computes_what_its_parts_do() -> None:
    made: list[tuple[nn.Module, tuple[torch.Tensor], dict[str, object]]] = []

    def make() -> tuple[nn.Module, tuple[torch.Tensor], dict[str, object]]:
        made.append((nn.Linear(3, 2), (torch.randn(4, 3),), {}))
        return made[-1]

    module, calls, kwargs = bundle(make, 3)
    assert len({part.weight.sum().item() for part in module.parts}) == 3
    for output, (part, args, _) in zip(module(*calls, **kwargs), made, strict=True):
        assert torch.equal(output, part(*args))


def test_inputs_of_a_bundle_are_nobody_elses() -> None:
    shared = torch.randn(4, 3)
    _, calls, _ = bundle(lambda: (nn.Linear(3, 2), (shared,), {"context": shared, "return_dict": False}), 2)
    tensors = [tensor for args, kwargs in calls for tensor in (*args, kwargs["context"])]
    assert len({tensor.data_ptr() for tensor in tensors}) == 4
    assert all(kwargs["return_dict"] is False for _, kwargs in calls)


def test_a_row_is_the_difference_and_has_the_noise_of_both() -> None:
    row = row_of_bundle(Row(2.0, 0.3, 10, 0.01), Row(9.0, 0.4, 7, -0.04), 8)
    assert (row.latency_ms, row.count, row.drift) == (1.0, 7, -0.04)
    assert row.spread_ms == pytest.approx(0.5 / 7, abs=1e-6)


def test_noise_never_makes_a_row_that_no_clock_can_have_shown() -> None:
    assert row_of_bundle(Row(2.0, 0.3, 10), Row(1.6, 0.4, 7), 8).latency_ms == 0.2
