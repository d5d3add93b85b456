from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nas import SearchSpace, Workload
from nas.errors import SearchSpaceError
from nas.unet import block_inputs, block_of, example_inputs, make_network, share_structure

EXTRAS = {
    "sdxl": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    },
    "classes": {"num_class_embeds": 3},
    "timestep": {"class_embed_type": "timestep"},
    "projection": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 7},
    "text projection": {"encoder_hid_dim": 20, "encoder_hid_dim_type": "text_proj"},
}


@torch.no_grad()
@pytest.mark.parametrize("extra", EXTRAS)
def test_a_unet_takes_its_example_inputs(tiny_config, extra: str):
    config = {**tiny_config, **EXTRAS[extra]}
    space = SearchSpace.from_config(config, context_length=5)
    workload = Workload.of(space, batch_size=3, height=12, width=8)
    output = make_network(space, space.empty)(**example_inputs(space, workload))[0]
    assert output.shape == (3, 4, 12, 8)
    assert output.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 20), (7, 9)])
def test_blocks_get_the_shapes_that_the_unet_gives_them(tiny_unet, tiny_space, height: int, width: int):
    workload = Workload.of(tiny_space, batch_size=2, height=height, width=width)
    shapes = {}
    unet = share_structure(tiny_unet)
    for block in tiny_space.blocks:
        block_of(unet, block).register_forward_pre_hook(
            lambda module, args, kwargs, place=block.place: shapes.update({place: _shapes(args, kwargs)}),
            with_kwargs=True,
        )
    unet(**example_inputs(tiny_space, workload))
    assert shapes == {block.place: _shapes(*block_inputs(block, workload)) for block in tiny_space.blocks}


def _shapes(args, kwargs):
    context = kwargs.get("encoder_hidden_states")
    return [tuple(arg.shape) for arg in args], None if context is None else tuple(context.shape)


def test_inputs_depend_on_the_seed_and_follow_the_precision(tiny_space):
    workload = Workload.of(tiny_space, precision="bf16")
    first, again, other = (example_inputs(tiny_space, workload, seed=seed)["sample"] for seed in (1, 1, 2))
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "extra",
    [
        {"addition_embed_type": "image", "encoder_hid_dim": 8},
        {"class_embed_type": "identity"},
        {"encoder_hid_dim": 8, "encoder_hid_dim_type": "image_proj"},
    ],
)
def test_unknown_kinds_of_conditions_are_refused(tiny_config, tiny_space, extra: dict):
    space = replace(tiny_space, config={**tiny_config, **extra})
    with pytest.raises(SearchSpaceError, match="cannot be measured"):
        example_inputs(space, Workload.of(space))
