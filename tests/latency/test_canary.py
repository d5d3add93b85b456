"""The canary, and what it takes of the caches."""

from __future__ import annotations

from dataclasses import replace

import torch

from nas import LatencyTable, SearchSpace
from nas.latency._amounts import instances_of
from nas.latency._canary import CANARY_INSTANCES, CANARY_WEIGHTS, make_canary
from nas.latency._network import canary_ms_of
from nas.unet import make_block


def test_its_weights_are_counted() -> None:
    module, _ = make_canary()
    assert sum(parameter.numel() for parameter in module.parameters()) == CANARY_WEIGHTS


def test_all_of_it_is_larger_than_a_cache() -> None:
    assert 4 * CANARY_WEIGHTS * CANARY_INSTANCES > 64 * 2**20


def test_a_table_of_another_canary_has_no_time_to_compare_with(fake_table: LatencyTable) -> None:
    assert canary_ms_of(fake_table) == fake_table.provenance["canary_ms"]
    for change in ({"canary_weights": 1}, {"canary_ms": "none"}):
        other = replace(fake_table, provenance={**fake_table.provenance, **change})
        assert canary_ms_of(other) is None
    older = {name: value for name, value in fake_table.provenance.items() if name != "canary_weights"}
    assert canary_ms_of(replace(fake_table, provenance=older)) is None


def test_instances_and_the_canaries_in_between_take_as_much_as_the_network(tiny_space: SearchSpace) -> None:
    for space in (tiny_space, SearchSpace.load("emoji"), SearchSpace.load("sd15")):
        for block in space.blocks[:4]:
            own = block.parameters + CANARY_WEIGHTS
            found = instances_of((make_block(block), (), {}), space, "fp32", working_set_mb=64.0, min_instances=1)
            wanted = min(space.parameters, 2**24)  # 64 MiB of fp32
            assert wanted <= found * own < wanted + own or found == 64


def test_inputs_empty_a_cache_as_well(tiny_space: SearchSpace) -> None:
    block = make_block(tiny_space.blocks[0])

    def instances(numbers: int) -> int:
        halves = torch.empty(numbers // 2, device="meta")
        subject = block, (halves,), {"residuals": [halves], "scale": 1.0}
        return instances_of(subject, SearchSpace.load("sd15"), "fp32", working_set_mb=64.0, min_instances=1)

    own = sum(parameter.numel() for parameter in block.parameters()) + CANARY_WEIGHTS
    assert instances(0) - instances(4 * own) == 4
    assert instances(2**24) == instances(2**25) == 1
