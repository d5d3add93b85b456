"""Attention as Apple's Neural Engine likes it, as processors for diffusers' `Attention`.

The Neural Engine works on channels-first data with a long last axis, [b x c x 1 x length], and on small matrices. So
the heads are split into products of their own instead of one batched product, projections are 1x1 convolutions, and
nothing is transposed in between. The idea is Apple's: https://machinelearning.apple.com/research/neural-engine-transformers
and `split_einsum`, `split_einsum_v2` in https://github.com/apple/ml-stable-diffusion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from nas.errors import ModelError
from nas.unet._surgery import share_structure

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

ATTENTIONS = ("original", "split-einsum", "split-einsum-chunks")


class SplitEinsumAttnProcessor:
    """One product a head, channels first; computes what diffusers' `AttnProcessor2_0` computes.

    Pass it in by `unet.set_attn_processor(SplitEinsumAttnProcessor())`.
    """

    query_chunk: int | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            attn: the layer with the projections.
            hidden_states: [b x queries x c] or [b x c x h x w].
            encoder_hidden_states: [b x keys x d], the context of cross-attention.
            attention_mask: added to the scores, or boolean with True where to look; as `AttnProcessor2_0` takes it.
            temb: the time embedding, for layers with a spatial norm.

        Returns:
            of the shape of `hidden_states`.

        Raises:
            ModelError: the layer normalises queries or keys, which no UNet's does.
        """
        _check(attn)
        residual, shape = hidden_states, hidden_states.shape
        states = hidden_states if attn.spatial_norm is None else attn.spatial_norm(hidden_states, temb)
        # [b x c x 1 x length] from here on.
        states = states.flatten(2).unsqueeze(2) if len(shape) == 4 else _channels_first(states)
        if attn.group_norm is not None:
            states = attn.group_norm(states.squeeze(2)).unsqueeze(2)
        context = _context(attn, states, encoder_hidden_states)
        mask = _mask(attn, attention_mask, context)
        query, key, value = _project(attn.to_q, states), _project(attn.to_k, context), _project(attn.to_v, context)
        states = attn.to_out[1](_project(attn.to_out[0], self._attend(query, key, value, mask, attn.heads)))
        states = states.reshape(shape) if len(shape) == 4 else states.squeeze(2).transpose(1, 2)
        return (states + residual if attn.residual_connection else states) / attn.rescale_output_factor

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, heads: int
    ) -> torch.Tensor:
        """[b x c x 1 x q], [b x c x 1 x k], [b x c x 1 x k], [b x heads x k x q or 1] -> [b x c x 1 x q]."""
        keys, values = key.transpose(1, 3).chunk(heads, dim=3), value.chunk(heads, dim=1)
        masks = [None] * heads if mask is None else [part.transpose(1, 2) for part in mask.chunk(heads, dim=1)]
        parts = [self._one_head(*inputs) for inputs in zip(query.chunk(heads, dim=1), keys, values, masks, strict=True)]
        return torch.cat(parts, dim=1)

    def _one_head(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """[b x d x 1 x q], [b x k x 1 x d], [b x d x 1 x k], [b x k x 1 x q or 1] -> [b x d x 1 x q]."""
        if self.query_chunk is None or query.shape[3] <= self.query_chunk:
            return _attend_at_once(query, key, value, mask)
        queries = query.split(self.query_chunk, dim=3)
        varies = mask is not None and mask.shape[3] > 1
        masks = mask.split(self.query_chunk, dim=3) if varies else [mask] * len(queries)
        parts = [_attend_at_once(part, key, value, m) for part, m in zip(queries, masks, strict=True)]
        return torch.cat(parts, dim=3)


class ChunkedSplitEinsumAttnProcessor(SplitEinsumAttnProcessor):
    """The same for a part of the queries at a time, so that the scores of a part stay in the Neural Engine's memory.

    Args:
        query_chunk: queries in a part; the last part has what is left.

    Raises:
        ModelError: `query_chunk` is not a whole number of at least 1.
    """

    def __init__(self, query_chunk: int = 512) -> None:
        if isinstance(query_chunk, bool) or not isinstance(query_chunk, int) or query_chunk < 1:
            raise ModelError(f"query_chunk is {query_chunk!r}; it must be a whole number of at least 1")
        self.query_chunk = query_chunk


def with_attention(module: nn.Module, attention: str) -> nn.Module:
    """The module with another attention, over the same weights; the module itself is left as it is.

    Args:
        module: a UNet, a block, or anything else.
        attention: "original" leaves what the module has, "split-einsum" and "split-einsum-chunks" are
            `SplitEinsumAttnProcessor` and `ChunkedSplitEinsumAttnProcessor`.

    Raises:
        ModelError: another name.
    """
    check_attention(attention)
    if attention == "original":
        return module
    processor = SplitEinsumAttnProcessor if attention == "split-einsum" else ChunkedSplitEinsumAttnProcessor
    twin = share_structure(module)
    for part in twin.modules():
        if hasattr(part, "set_processor"):
            part.set_processor(processor())
    return twin


def check_attention(attention: str) -> None:
    """Refuse what is no name of an attention.

    Raises:
        ModelError: it is none of `ATTENTIONS`.
    """
    if attention not in ATTENTIONS:
        raise ModelError(f"no attention is called {attention!r}; choose one of {', '.join(ATTENTIONS)}")


def _check(attn: Attention) -> None:
    if attn.norm_q is not None or attn.norm_k is not None:
        raise ModelError("split-einsum attention knows no norm of queries or keys; use attention='original'")


def _channels_first(states: torch.Tensor) -> torch.Tensor:
    """[b x length x c] -> [b x c x 1 x length]."""
    return states.transpose(1, 2).unsqueeze(2)


def _context(attn: Attention, states: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
    if context is None:
        return states
    return _channels_first(attn.norm_encoder_hidden_states(context) if attn.norm_cross else context)


def _project(projection: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """A linear layer on [b x c x 1 x length], as a 1x1 convolution."""
    if type(projection) is nn.Linear:
        return F.conv2d(states, projection.weight[:, :, None, None], projection.bias)
    # An adapter's layer (LoRA), which is more than its weight.
    return _channels_first(projection(states.squeeze(2).transpose(1, 2)))


def _mask(attn: Attention, mask: torch.Tensor | None, context: torch.Tensor) -> torch.Tensor | None:
    """[b x heads x keys x queries or 1], to be added to the scores."""
    if mask is None:
        return None
    batch, length = context.shape[0], context.shape[3]
    mask = attn.prepare_attention_mask(mask, length, batch)
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=context.dtype).masked_fill(~mask, float("-inf"))
    return mask.view(batch, attn.heads, -1, mask.shape[-1]).transpose(2, 3)


def _attend_at_once(query: Any, key: Any, value: Any, mask: torch.Tensor | None) -> torch.Tensor:
    scores = torch.einsum("bchq,bkhc->bkhq", query, key) * key.shape[3] ** -0.5
    weights = (scores if mask is None else scores + mask).softmax(dim=1)
    return torch.einsum("bkhq,bchk->bchq", weights, value)
