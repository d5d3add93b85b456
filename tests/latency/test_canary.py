"""The canary, and what it takes of the caches."""

from __future__ import annotations

from nas import SearchSpace
from nas.latency._building import instances_of
from nas.latency._canary import CANARY_WEIGHTS, make_canary
from nas.unet import make_block


def test_its_weights_are_counted() -> None:
    module, _ = make_canary()
    assert CANARY_WEIGHTS == sum(parameter.numel() for parameter in module.parameters())


def test_instances_and_the_canaries_in_between_take_as_much_as_the_network(tiny_space: SearchSpace) -> None:
    for space in (tiny_space, SearchSpace.load("emoji"), SearchSpace.load("sd15")):
        for block in space.blocks[:4]:
            own = block.parameters + CANARY_WEIGHTS
            found = instances_of(make_block(block), space, "fp32", working_set_mb=64.0, min_instances=1)
            wanted = min(space.parameters, 2**24)  # 64 MiB of fp32
            assert wanted <= found * own < wanted + own or found == 64
