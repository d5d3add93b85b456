"""Multiply-accumulates against the figures of the method and against closed forms."""

from __future__ import annotations

from collections import Counter

import pytest
from diffusers import UNet2DConditionModel

from nas import SearchSpace, Workload
from nas.architecture import Block
from nas.unet import block_macs, make_network, network_macs

# SD-v1.5 at batch 1 and 64x64: millions of weights and GMACs by stage, attention and residual blocks.
PUBLISHED = {
    "down-1": {"attention": (5.09, 38.7), "resnet": (4.51, 15.1)},
    "down-2": {"attention": (18.38, 19.8), "resnet": (14.75, 13.4)},
    "down-3": {"attention": (69.52, 17.5), "resnet": (55.72, 13.4)},
    "mid": {"attention": (34.76, 2.3), "resnet": (272.05, 16.7)},
    "up-1": {"attention": (104.28, 26.3), "resnet": (139.30, 34.4)},
    "up-2": {"attention": (27.57, 29.7), "resnet": (40.16, 38.6)},
    "up-3": {"attention": (7.64, 58.1), "resnet": (11.17, 40.7)},
}
# "mid" are all the blocks at the lowest resolution.
STAGES = {f"down.{i}": f"down-{i + 1}" for i in range(3)} | {f"up.{i}": f"up-{i}" for i in range(1, 4)}


def conv(block_in: int, block_out: int, kernel: int, pixels: int) -> int:
    return block_in * block_out * kernel**2 * pixels


def by_hand(block: Block, workload: Workload, *, copy: bool = False) -> int:
    """The closed forms, per sample."""
    height, width = block.size(workload)
    pixels, channels = height * width, block.out_channels
    if block.kind == "resnet":
        taken = channels if copy else block.in_channels
        shortcut = conv(taken, channels, 1, pixels) if taken != channels else 0
        embedding = block.option("temb_channels") * channels
        return conv(taken, channels, 3, pixels) + conv(channels, channels, 3, pixels) + shortcut + embedding
    context, length = block.option("context_dim"), workload.context_length
    own = 4 * pixels * channels**2 + 2 * pixels**2 * channels
    cross = 2 * pixels * channels**2 + 2 * length * context * channels + 2 * pixels * length * channels
    feed_forward = pixels * (channels * 8 * channels + 4 * channels * channels)
    return 2 * pixels * channels**2 + block.option("depth") * (own + cross + feed_forward)


def test_the_published_figures_of_sd15_come_out() -> None:
    space = SearchSpace.load("sd15")
    workload = Workload.of(space, batch_size=1)
    counted = {block.signature(workload): block_macs(block, workload) for block in space.blocks}
    macs, parameters = Counter(), Counter()
    for block in space.blocks:
        group = STAGES.get(block.stage, "mid"), block.kind
        macs[group] += counted[block.signature(workload)]
        parameters[group] += block.parameters
    for stage, kinds in PUBLISHED.items():
        for kind, (millions, giga) in kinds.items():
            assert macs[stage, kind] / 1e9 == pytest.approx(giga, abs=0.0501), (stage, kind)
            assert parameters[stage, kind] / 1e6 == pytest.approx(millions, abs=0.00501), (stage, kind)


@pytest.mark.parametrize("copy", [False, True])
def test_blocks_match_the_closed_forms(tiny_space: SearchSpace, copy: bool) -> None:
    workload = Workload.of(tiny_space, batch_size=3, height=16, width=8, context_length=7)
    for block in tiny_space.blocks:
        assert block_macs(block, workload, copy=copy) == 3 * by_hand(block, workload, copy=copy)


def test_depth_and_linear_projections_of_sdxl_are_counted() -> None:
    space = SearchSpace.load("sdxl")
    workload = Workload.of(space, batch_size=1, height=32, width=32)
    deepest = max(space.blocks, key=lambda block: dict(block.options).get("depth", 0))
    assert deepest.option("depth") == 10
    assert block_macs(deepest, workload) == by_hand(deepest, workload)


def test_a_network_is_its_blocks_and_what_lies_between(tiny_space: SearchSpace) -> None:
    workload = Workload.of(tiny_space, batch_size=2)
    space = tiny_space
    shortcuts = 0
    for block in space.blocks:
        height, width = block.size(workload)
        shortcuts += 2 * block.has_shortcut * block.in_channels * block.out_channels * height * width
    blocks = sum(block_macs(block, workload) for block in space.blocks)
    full, empty = network_macs(space, workload), network_macs(space, workload, space.empty)
    assert full - blocks == empty - shortcuts > 0
    doubled = space.full.duplicate("mid.attention.0")
    assert network_macs(space, workload, doubled) - full == block_macs(space.block("mid.attention.0"), workload)


def test_nothing_is_built_in_memory(tiny_space: SearchSpace) -> None:
    network = make_network(tiny_space, tiny_space.full, device="meta")
    assert isinstance(network, UNet2DConditionModel)
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
