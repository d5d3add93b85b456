from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas import Workload
from nas.errors import ModelError
from nas.unet import (
    ATTENTIONS,
    ChunkedSplitEinsumAttnProcessor,
    SplitEinsumAttnProcessor,
    example_inputs,
    with_attention,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def both(attn: Attention, processor, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    """What diffusers' processor gives and what the other gives."""
    attn.set_processor(AttnProcessor2_0())
    expected = attn(*args, **kwargs)
    attn.set_processor(processor)
    return attn(*args, **kwargs), expected


@torch.no_grad()
@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 5),
    head_dim=st.integers(1, 9),
    queries=st.integers(1, 23),
    keys=st.none() | st.integers(1, 11),
    chunk=st.none() | st.integers(1, 25),
    mask=st.sampled_from([None, "keys", "queries x keys", "boolean"]),
    seed=st.integers(0, 2**20),
)
def test_equals_diffusers(batch, heads, head_dim, queries, keys, chunk, mask, seed):
    torch.manual_seed(seed)
    width = None if keys is None else 6
    attn = Attention(8, width, heads=heads, dim_head=head_dim, bias=bool(seed % 2))
    context = None if keys is None else torch.randn(batch, keys, width)
    shape = (batch, 1 if mask == "keys" else queries, keys or queries)
    bias = None if mask is None else torch.randn(shape)
    if mask == "boolean":
        bias = bias > 0
        bias[..., 0] = True  # attention to nothing at all is not defined
    processor = SplitEinsumAttnProcessor() if chunk is None else ChunkedSplitEinsumAttnProcessor(chunk)
    inputs = {"encoder_hidden_states": context, "attention_mask": bias}
    found, expected = both(attn, processor, torch.randn(batch, queries, 8), **inputs)
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("processor", [SplitEinsumAttnProcessor(), ChunkedSplitEinsumAttnProcessor(5)])
def test_pictures_norms_residuals_and_scales_are_as_in_diffusers(processor):
    torch.manual_seed(0)
    attn = Attention(8, heads=2, dim_head=4, norm_num_groups=2, residual_connection=True, rescale_output_factor=1.5)
    found, expected = both(attn, processor, torch.randn(2, 8, 3, 4))
    torch.testing.assert_close(found, expected, **CLOSE)
    attn = Attention(8, 6, heads=2, dim_head=4, cross_attention_norm="layer_norm")
    found, expected = both(attn, processor, torch.randn(2, 12, 8), encoder_hidden_states=torch.randn(2, 5, 6))
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.no_grad()
def test_a_layer_that_is_more_than_its_weight_is_called():
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    torch.manual_seed(0)
    attn = Attention(8, heads=2, dim_head=4)
    attn.to_v = Doubled(8, 8)
    found, expected = both(attn, SplitEinsumAttnProcessor(), torch.randn(2, 6, 8))
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_whole_unet_computes_the_same_and_stays_as_it_is(tiny_unet, tiny_space, attention: str):
    inputs = example_inputs(tiny_space, Workload.of(tiny_space))
    kinds = {type(processor) for processor in tiny_unet.attn_processors.values()}
    other = with_attention(tiny_unet, attention)
    torch.testing.assert_close(other(**inputs)[0], tiny_unet(**inputs)[0], **CLOSE)
    assert {type(processor) for processor in tiny_unet.attn_processors.values()} == kinds
    assert [*map(id, other.parameters())] == [*map(id, tiny_unet.parameters())]
    changed = {type(processor) for processor in other.attn_processors.values()}
    assert (changed == kinds) == (attention == "original")


@torch.no_grad()
def test_passed_in_by_diffusers_own_way(tiny_unet, tiny_space):
    inputs = example_inputs(tiny_space, Workload.of(tiny_space))
    expected = tiny_unet(**inputs)[0]
    tiny_unet.set_attn_processor(ChunkedSplitEinsumAttnProcessor(query_chunk=7))
    torch.testing.assert_close(tiny_unet(**inputs)[0], expected, **CLOSE)


def test_what_cannot_be_done_is_refused():
    attn = Attention(8, heads=2, dim_head=4, qk_norm="layer_norm", processor=SplitEinsumAttnProcessor())
    with pytest.raises(ModelError, match="norm of queries"):
        attn(torch.zeros(1, 2, 8))
    with pytest.raises(ModelError, match="split-einsum-chunks"):
        with_attention(nn.Identity(), "flash")
    for chunk in (0, -1, 2.0, True):
        with pytest.raises(ModelError, match="query_chunk"):
            ChunkedSplitEinsumAttnProcessor(chunk)
