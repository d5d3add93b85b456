from __future__ import annotations

import random

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from nas import Architecture, Workload
from nas.errors import ArchitectureError
from nas.unet import apply_architecture, block_of, example_inputs, make_block, own_structure, share_structure


@pytest.fixture
def inputs(tiny_space):
    return example_inputs(tiny_space, Workload.of(tiny_space))


@torch.no_grad()
def test_sharing_a_structure_copies_no_weights_and_computes_the_same(tiny_unet, inputs):
    twin = share_structure(tiny_unet)
    assert [*twin.named_parameters()] == [*tiny_unet.named_parameters()], "the very same objects"
    assert not {id(m) for m in twin.modules()} & {id(m) for m in tiny_unet.modules()}
    assert torch.equal(twin(**inputs)[0], tiny_unet(**inputs)[0])


def test_what_is_done_to_one_structure_leaves_the_other_alone(tiny_unet):
    twin = share_structure(tiny_unet).train()
    twin.set_attn_processor(AttnProcessor())
    twin.enable_gradient_checkpointing()
    twin.register_forward_hook(lambda *args: None)
    twin.register_to_config(sample_size=99)
    assert not tiny_unet.training
    assert not tiny_unet.is_gradient_checkpointing
    assert not tiny_unet._forward_hooks
    assert tiny_unet.config.sample_size == 8
    assert not any(isinstance(p, AttnProcessor) for p in tiny_unet.attn_processors.values())


@torch.no_grad()
def test_a_structure_of_its_own_has_weights_of_its_own(tiny_unet, inputs):
    twin = own_structure(tiny_unet)
    before = tiny_unet(**inputs)[0]
    assert torch.equal(twin(**inputs)[0], before)
    for parameter in twin.parameters():
        parameter.zero_()
    assert torch.equal(tiny_unet(**inputs)[0], before)


@torch.no_grad()
def test_hooks_that_point_at_the_network_point_at_the_twin(tiny_unet, tiny_space, inputs):
    # What accelerate's offloading does: a forward bound to the module, put into the instance.
    tiny_unet.forward = tiny_unet.forward
    twin = share_structure(tiny_unet)
    apply_architecture(twin, tiny_space, tiny_space.empty)
    assert twin.forward.__self__ is twin
    assert not torch.equal(twin(**inputs)[0], tiny_unet(**inputs)[0])


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_skipping_equals_a_stock_unet_with_zeroed_residual_branches(tiny_unet, tiny_space, inputs, seed: int):
    architecture = tiny_space.sample(random.Random(seed))
    reference, surgery = own_structure(tiny_unet), own_structure(tiny_unet)
    for place in architecture.removed:
        module = block_of(reference, place)
        last = module.conv2 if "resnet" in place else module.proj_out
        last.weight.zero_()
        last.bias.zero_()
    apply_architecture(surgery, tiny_space, architecture)
    torch.testing.assert_close(surgery(**inputs)[0], reference(**inputs)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_given_copies_are_used_and_missing_ones_are_made(tiny_unet, tiny_space, inputs):
    place = "up.1.resnet.0"
    architecture = tiny_space.full.duplicate(place).duplicate("up.1.attention.1")
    given = make_block(tiny_space.block(place), copy=True)
    before = tiny_unet(**inputs)[0]
    apply_architecture(tiny_unet, tiny_space, architecture, copies={place: [given]})
    assert block_of(tiny_unet, place).copies[0] is given
    assert not torch.equal(tiny_unet(**inputs)[0], before)
    torch.nn.init.zeros_(given.conv2.weight)
    torch.nn.init.zeros_(given.conv2.bias)
    assert torch.equal(tiny_unet(**inputs)[0], before), "the copy that was made starts as the identity"


def test_an_architecture_of_another_space_is_refused(tiny_unet, tiny_space):
    with pytest.raises(ArchitectureError, match="tiny"):
        apply_architecture(tiny_unet, tiny_space, Architecture.parse("down.0.resnet=1"))
