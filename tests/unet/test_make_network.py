from __future__ import annotations

import random

import pytest
import torch

from nas import SearchSpace, Workload
from nas.unet import example_inputs, make_network


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
def test_random_networks_give_finite_outputs_and_normal_numbers(tiny_space, seed: int):
    architecture = tiny_space.sample(random.Random(seed)).with_choice("up.1.resnet.0", "2")
    network = make_network(tiny_space, architecture, seed=seed)
    output = network(**example_inputs(tiny_space, Workload.of(tiny_space)))[0]
    assert output.isfinite().all()
    assert 0.01 < output.std() < 100
    weights = torch.cat([p.flatten() for p in network.parameters() if p.ndim > 1]).abs()
    assert weights.min() > 1e-4, "no denormal numbers, in half precision neither"


def test_the_seed_decides_the_weights(tiny_space):
    networks = [make_network(tiny_space, tiny_space.empty, seed=seed) for seed in (3, 3, 4)]
    first, again, other = (network.conv_in.weight for network in networks)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_base_holds_no_weights_of_skipped_blocks(tiny_space):
    network = make_network(tiny_space, tiny_space.empty, dtype=torch.bfloat16)
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    left = sum(p.numel() for p in network.parameters())
    shortcuts = sum(b.in_channels * b.out_channels + b.out_channels for b in tiny_space.blocks if b.has_shortcut)
    assert left == tiny_space.parameters - sum(b.parameters for b in tiny_space.blocks) + shortcuts


@torch.no_grad()
def test_a_network_of_sdxl_runs_on_the_meta_device():
    space = SearchSpace.load("sdxl")
    architecture = space.empty.with_choice("down.1.attention.0", "2").with_choice("up.1.resnet.2", "1")
    network = make_network(space, architecture, device="meta")
    workload = Workload.of(space, batch_size=1, height=8, width=8)
    assert network(**example_inputs(space, workload, device="meta"))[0].shape == (1, 4, 8, 8)
    assert len(network.attn_processors) == 8, "the block and its copy are two layers deep, two attentions each"
