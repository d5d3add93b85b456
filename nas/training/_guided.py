"""Classifier-free guidance of outputs, and how much of it a training step draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas.errors import NasError

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`predict(z, timesteps, contexts) -> v`: latents `[b x ...]`, timesteps `[b]`, contexts `[b x l x d]`; v like z."""
PredictGuided = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`predict(z, timesteps, contexts, guidance) -> v`: the same for a network that is told the guidance `[b]`."""

# The paper's: the range of w and the probability of the CFG-aware loss.
GUIDANCE_RANGE = (2.0, 14.0)
GUIDED_SHARE = 0.1


def guided(with_context: Tensor, without: Tensor, guidance: float | Tensor) -> Tensor:
    """Classifier-free guidance w o(c) - (w - 1) o(0) of outputs `[b x ...]`, in float32 or better; w = 1 is none.

    It is the same for e, v and x, which are linear in one another at a given z.

    Args:
        with_context: outputs with the text's context.
        without: outputs with the empty text's.
        guidance: w, a number or one for each sample `[b]`.

    Raises:
        NasError: w is neither.
    """
    # A difference of like outputs, times up to 14: half precision would not do.
    dtype = torch.promote_types(with_context.dtype, torch.float32)
    with_context, without = with_context.to(dtype), without.to(dtype)
    if isinstance(guidance, Tensor) and guidance.ndim:
        if guidance.shape != with_context.shape[:1]:
            raise NasError(f"guidance has shape {list(guidance.shape)}; give a number or [{len(with_context)}]")
        guidance = guidance.to(with_context.dtype).to(with_context.device)
        guidance = guidance.view(-1, *[1] * (with_context.ndim - 1))
    return guidance * with_context - (guidance - 1) * without


def both_branches(
    predict: Predict, z: Tensor, timesteps: Tensor, contexts: Tensor, empty: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs with the contexts `[b x l x d]` and with the empty text's `[1 x l x d]`, in one call."""
    both = torch.cat([contexts, empty.expand_as(contexts)])
    said = predict(torch.cat([z, z]), torch.cat([timesteps, timesteps]), both)
    with_context, without = said.chunk(2)
    return with_context, without


def plain_and_guided(
    predict: Predict, z: Tensor, timesteps: Tensor, contexts: Tensor, empty: Tensor | None, guidance: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs with the contexts, and the same guided, in one call; a sample of w = 1 is evaluated once, not twice.

    Args:
        predict: the network.
        z: noisy latents `[b x ...]`.
        timesteps: `[b]`.
        contexts: `[b x l x d]`.
        empty: the empty text's context `[1 x l x d]`, which guidance needs.
        guidance: w, a number or one for each sample `[b]`.

    Raises:
        NasError: guidance without the empty text's context, or for another number of samples.
    """
    if not isinstance(guidance, Tensor):
        guidance = torch.tensor(guidance, dtype=torch.float64)
    if guidance.ndim == 0:
        guidance = guidance.expand(len(z))
    if guidance.shape != z.shape[:1]:
        raise NasError(f"guidance has shape {list(guidance.shape)}; give a number or [{len(z)}]")
    rows = (guidance != 1).nonzero().flatten()
    guidance, rows = guidance[rows], rows.to(z.device)
    if not len(rows):
        said = predict(z, timesteps, contexts)
        return said, said
    if empty is None:
        raise NasError("guidance needs the context of the empty text: give empty=")
    said = predict(
        torch.cat([z, z[rows]]),
        torch.cat([timesteps, timesteps[rows]]),
        torch.cat([contexts, empty.expand_as(contexts)[rows]]),
    )
    plain, without = said[: len(z)], said[len(z) :]
    led = guided(plain[rows], without, guidance)
    return plain, plain.to(led.dtype).index_copy(0, rows, led)


def guidance_gain(guidance: float | Tensor) -> float | Tensor:
    """w^2 + (w - 1)^2: the squared error of a guided output for one of its branches, where theirs are independent."""
    return guidance**2 + (guidance - 1) ** 2


def draw_guidance(
    count: int,
    *,
    generator: torch.Generator,
    share: float = GUIDED_SHARE,
    between: tuple[float, float] = GUIDANCE_RANGE,
) -> Tensor:
    """Guidance for each of `count` samples: with probability `share` uniform in a range, else 1, the vanilla loss.

    Raises:
        NasError: a share that is no probability, or a range that is none.
    """
    low, high = between
    if not 0 <= share <= 1 or not 1 <= low <= high:
        raise NasError(f"share {share} must be from 0 to 1, and of the range {between} 1 <= low <= high")
    drawn = low + (high - low) * torch.rand(count, generator=generator)
    is_guided = torch.rand(count, generator=generator) < share
    return torch.where(is_guided, drawn, torch.ones(count))
