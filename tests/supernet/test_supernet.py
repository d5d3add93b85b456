from __future__ import annotations

import copy
import random

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas import Architecture, SearchSpace, Supernet, Workload
from nas.errors import ArchitectureError, ModelError, SearchSpaceError
from nas.unet import block_inputs, block_of, example_inputs, make_block, make_shortcut, own_structure

SHARED = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def supernet(tiny_unet, tiny_space) -> Supernet:
    return Supernet(tiny_unet, tiny_space).eval()


@pytest.fixture
def inputs(tiny_space) -> dict:
    return example_inputs(tiny_space, Workload.of(tiny_space))


def with_copies(space: SearchSpace, seed: int) -> Architecture:
    """Any architecture: a third of the blocks gone, some of the others twice."""
    rng = random.Random(seed)
    architecture = space.sample(rng, keep=0.7)
    for place in rng.sample(architecture.places, 6):
        if architecture.runs(place):
            architecture = architecture.duplicate(place)
    return architecture


# What it computes.


@torch.no_grad()
def test_with_nothing_skipped_the_output_is_bit_identical(tiny_unet, supernet, inputs):
    expected = tiny_unet(**inputs)[0]
    assert torch.equal(supernet(**inputs)[0], expected)
    assert torch.equal(supernet(**{**inputs, "return_dict": True}).sample, expected)
    positional = supernet(inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"], return_dict=False)
    assert torch.equal(positional[0], expected)


@SHARED
@given(seed=st.integers(0, 10**6))
@torch.no_grad()
def test_inside_the_supernet_as_a_candidate_and_extracted_is_the_same(supernet, inputs, seed: int):
    architecture = with_copies(supernet.space, seed)
    inside = supernet(**inputs, architecture=architecture)[0]
    assert torch.equal(supernet.candidate(architecture)(**inputs)[0], inside)
    assert torch.equal(supernet.extract(architecture)(**inputs)[0], inside)
    supernet.move_to(architecture)
    assert torch.equal(supernet(**inputs)[0], inside)
    assert torch.equal(supernet.extract()(**inputs)[0], inside)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_a_skipped_block_adds_nothing(tiny_unet, supernet, inputs, seed: int):
    architecture = supernet.space.sample(random.Random(seed))
    reference = own_structure(tiny_unet)
    for place in architecture.removed:
        module = block_of(reference, place)
        nn.init.zeros_((module.conv2 if "resnet" in place else module.proj_out).weight)
        nn.init.zeros_((module.conv2 if "resnet" in place else module.proj_out).bias)
    inside = supernet(**inputs, architecture=architecture)[0]
    torch.testing.assert_close(inside, reference(**inputs)[0], rtol=1e-4, atol=1e-5)


# What it costs.


def flops(network, *args, **kwargs) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*args, **kwargs)
    return counter.get_total_flops()


def test_a_skipped_block_costs_nothing(tiny_unet, supernet, inputs):
    workload = Workload.of(supernet.space)
    full = flops(tiny_unet, **inputs)
    assert flops(supernet, **inputs) == full
    architecture = supernet.space.sample(random.Random(4), keep=0.5)
    saved = 0
    for place in architecture.removed:
        block = supernet.space.block(place)
        args, kwargs = block_inputs(block, workload)
        saved += flops(make_block(block), *args, **kwargs)
        saved -= flops(make_shortcut(block), args[0]) if block.has_shortcut else 0
    assert saved > 0.2 * full
    assert flops(supernet, **inputs, architecture=architecture) == full - saved


@torch.no_grad()
def test_nothing_of_a_skipped_block_is_called_but_its_shortcut(supernet, inputs):
    called = set()
    for name, module in supernet.unet.named_modules():
        module.register_forward_hook(lambda *args, name=name: called.add(name))
    supernet(**inputs, architecture=supernet.space.empty)
    inside = {name for name in called if ".resnets." in name or ".attentions." in name}
    shortcuts = {name for name, _ in supernet.unet.named_modules() if name.endswith("conv_shortcut")}
    assert inside == shortcuts


# Training.


def loss_and_gradients(network, inputs: dict, **kwargs) -> tuple[torch.Tensor, list]:
    network.zero_grad()
    loss = network(**inputs, **kwargs)[0].square().mean()
    loss.backward()
    return loss.detach(), [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def test_with_skip_probability_zero_the_loss_is_identical_to_plain_training(tiny_unet, tiny_space, inputs):
    plain, gradients = loss_and_gradients(copy.deepcopy(tiny_unet).train(), inputs)
    supernet = Supernet(tiny_unet, tiny_space, skip_probability=0.0).train()
    loss, drawn = loss_and_gradients(supernet, inputs)
    assert torch.equal(loss, plain)
    assert all(torch.equal(one, other) for one, other in zip(drawn, gradients, strict=True))


def test_skipped_blocks_get_no_gradient_and_the_others_do(supernet, inputs):
    supernet.train()(**inputs, architecture=supernet.space.full.remove("mid.resnet.0"))[0].sum().backward()
    assert all(p.grad is None for p in block_of(supernet.unet, "mid.resnet.0").parameters())
    assert all(p.grad is not None for p in block_of(supernet.unet, "mid.resnet.1").parameters())


def test_checkpointed_passes_do_not_depend_on_later_paths(tiny_unet, tiny_space, inputs):
    def gradients(*, checkpoint: bool) -> list:
        unet = copy.deepcopy(tiny_unet)
        if checkpoint:
            unet.enable_gradient_checkpointing()
        supernet = Supernet(unet, tiny_space, skip_probability=0.4, seed=1)
        supernet.move_to(tiny_space.full.duplicate("down.1.resnet.0").duplicate("up.2.attention.0"))
        supernet.train()
        # Two passes before the first backward, as in gradient accumulation over a joint loss.
        (supernet(**inputs)[0].square().mean() + supernet(**inputs)[0].abs().mean()).backward()
        return [p.grad for p in supernet.parameters()]

    for plain, recomputed in zip(gradients(checkpoint=False), gradients(checkpoint=True), strict=True):
        assert (plain is None) == (recomputed is None)
        if plain is not None:
            torch.testing.assert_close(recomputed, plain)


# The UNet that was given.


def test_the_weights_are_those_of_the_unet_and_its_structure_stays(tiny_unet, supernet, inputs):
    assert {id(p) for p in supernet.parameters()} == {id(p) for p in tiny_unet.parameters()}
    with torch.no_grad():
        before = tiny_unet(**inputs)[0]
        supernet.train()(**inputs, architecture=supernet.space.empty)
        assert not tiny_unet.training
        assert torch.equal(tiny_unet(**inputs)[0], before)
        nn.init.zeros_(supernet.unet.conv_out.weight)
        assert not torch.equal(tiny_unet(**inputs)[0], before), "training the supernet trains the UNet"


def test_the_state_dict_has_the_keys_of_the_unet(tiny_unet, supernet):
    keys = {key.removeprefix("unet.") for key in supernet.state_dict() if key != "_extra_state"}
    assert keys == set(tiny_unet.state_dict())


@torch.no_grad()
def test_an_error_in_a_pass_leaves_the_supernet_whole(supernet, inputs):
    expected = supernet(**inputs)[0]
    with pytest.raises(RuntimeError):
        supernet(
            **{**inputs, "encoder_hidden_states": torch.zeros(2, 5, 3)}, architecture=with_copies(supernet.space, 0)
        )
    assert torch.equal(supernet(**inputs)[0], expected)


# Candidates, extraction, moving.


def test_a_candidate_copies_no_weights_and_an_extraction_shares_none(supernet):
    supernet.move_to(supernet.space.full.duplicate("up.1.resnet.0"))
    architecture = supernet.current.remove("mid.attention.0").remove("down.1.resnet.0")
    own = {p.data_ptr() for p in supernet.parameters()}
    assert {p.data_ptr() for p in supernet.candidate(architecture).parameters()} < own
    assert not {p.data_ptr() for p in supernet.extract(architecture).parameters()} & own


def test_changing_a_candidate_leaves_the_supernet_alone(supernet):
    candidate = supernet.candidate(supernet.space.full).train()
    candidate.enable_gradient_checkpointing()
    assert not any(module.training for module in supernet.modules())
    assert not supernet.unet.is_gradient_checkpointing
    assert type(supernet.unet) is UNet2DConditionModel
    assert "architecture" not in supernet.config


@torch.no_grad()
def test_duplicates_preserve_the_function_unless_plain_copies_are_asked_for(tiny_unet, tiny_space, inputs):
    doubled = tiny_space.full
    for place in doubled.places:
        doubled = doubled.duplicate(place)
    before = tiny_unet(**inputs)[0]
    identity = Supernet(tiny_unet, tiny_space).eval()
    identity.move_to(doubled)
    assert torch.equal(identity(**inputs)[0], before)
    plain = Supernet(tiny_unet, tiny_space, duplicate_init="plain").eval()
    one = tiny_space.full.duplicate("mid.attention.0")
    assert (plain(**inputs, architecture=one)[0] - before).abs().max() > 1e-4
    # The paper's copy runs the block twice: against a chain made by hand.
    middle = block_of(tiny_unet, "mid.attention.0")
    tiny_unet.mid_block.attentions[0] = Twice(middle)
    assert torch.equal(tiny_unet(**inputs)[0], plain(**inputs, architecture=one)[0])


class Twice(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states, **kwargs):
        return self.block(self.block(hidden_states, **kwargs)[0], **kwargs)


def test_moving_makes_and_drops_copies(supernet):
    place = "up.1.resnet.0"
    more = supernet.space.full.duplicate(place)
    before = set(supernet.parameters())
    supernet.move_to(more)
    added = set(supernet.parameters()) - before
    assert len(added) == len(list(make_block(supernet.space.block(place), copy=True).parameters()))
    supernet.move_to(more.remove("mid.attention.0"))
    assert set(supernet.parameters()) == before | added, "copies that stay keep their weights"
    supernet.move_to(supernet.space.full)
    assert set(supernet.parameters()) == before
    assert supernet.current == supernet.space.full


def test_new_copies_can_be_trained(supernet, inputs):
    supernet.move_to(supernet.space.full.duplicate("up.1.attention.0"))
    supernet(**inputs)[0].square().sum().backward()
    assert supernet.copies["up_1_attention_0"][0].proj_out.weight.grad.abs().max() > 0


def test_a_supernet_can_be_copied(supernet, inputs):
    twin = copy.deepcopy(supernet)
    with torch.no_grad():
        assert torch.equal(twin(**inputs)[0], supernet(**inputs)[0])
        nn.init.zeros_(twin.unet.conv_out.weight)
        assert not torch.equal(twin(**inputs)[0], supernet(**inputs)[0])


# What is refused.


def test_an_architecture_of_another_space_is_refused(supernet, inputs):
    other = Architecture.parse("down.0.resnet=1,1")
    for action in (
        lambda: supernet(**inputs, architecture=other),
        lambda: supernet.candidate(other),
        lambda: supernet.extract(other),
        lambda: supernet.move_to(other),
    ):
        with pytest.raises(ArchitectureError, match="tiny"):
            action()
    thrice = supernet.space.full.duplicate("mid.attention.0").duplicate("mid.attention.0")
    with pytest.raises(ArchitectureError, match="2 copies"):
        supernet.candidate(thrice)


def test_what_is_no_unet_of_the_space_is_refused(tiny_unet, tiny_config, tiny_space, supernet):
    other = SearchSpace.from_config({**tiny_config, "layers_per_block": 1}, name="short")
    with pytest.raises(SearchSpaceError, match="short"):
        Supernet(tiny_unet, other)
    with pytest.raises(SearchSpaceError, match="tiny"):
        Supernet(supernet.extract(tiny_space.empty), tiny_space)
    with pytest.raises(SearchSpaceError, match=r"up\.1\.resnet\.0"):
        Supernet(supernet.extract(tiny_space.full.duplicate("up.1.resnet.0")), tiny_space)
    with pytest.raises(ModelError, match="Linear"):
        Supernet(nn.Linear(1, 1))
    with pytest.raises(ModelError, match="'half'"):
        Supernet(tiny_unet, tiny_space, duplicate_init="half")
