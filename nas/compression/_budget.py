"""From a budget for the whole image to the UNet's: pure arithmetic on the parts of an image."""

from __future__ import annotations

from dataclasses import replace

from nas.errors import BudgetError
from nas.latency import ImageLatency


def image_of(
    parts: ImageLatency,
    *,
    steps: int,
    unet_ms: float,
    unet_batch_size: int,
    decoder_ms: float | None = None,
    guided: bool = True,
    folded: bool = False,
) -> ImageLatency:
    """An image of a pipeline of which some parts were replaced.

    A guided step is one execution of the UNet with two samples, or two with one. Where the guidance is folded into the
    UNet (`nas.unet.fold_guidance`) a step is one execution with one sample, and the empty text is not encoded. What a
    step takes beside the UNet is left as it was measured, with guidance, which is a little too much then.

    Args:
        parts: the image as its text encoder, decoder and scheduler were measured.
        steps: denoising steps.
        unet_ms: one execution of the UNet with `unet_batch_size` samples.
        unet_batch_size: samples in one execution: what the latency table was measured with.
        decoder_ms: one run of the decoder; as in `parts` when None.
        guided: whether there is guidance, whichever way.
        folded: whether it is folded into the UNet.

    Raises:
        TableError: such a batch is no step of one picture.
    """
    return replace(
        ImageLatency.from_components(
            text_encoder_ms=parts.text_encoder_ms,
            unet_ms=unet_ms,
            decoder_ms=parts.decoder_ms if decoder_ms is None else decoder_ms,
            steps=steps,
            guided=guided and not folded,
            unet_batch_size=unet_batch_size,
            step_overhead_ms=parts.step_overhead_ms,
            constant_ms=parts.constant_ms,
            provenance=parts.provenance,
        ),
        decoder_runs=parts.decoder_runs,
    )


def unet_budget_ms(aim: ImageLatency, image_budget_ms: float, *, smallest_ms: float, full_ms: float) -> float:
    """What one execution of the UNet may take for the image to take `image_budget_ms`.

    Args:
        aim: the image as it is to be: its steps, its evaluations a step, its decoder. Its UNet does not count.
        image_budget_ms: of the image.
        smallest_ms: the fastest UNet that can be had; the full one's where nothing is to be removed from it.
        full_ms: the UNet as it is.

    Raises:
        BudgetError: no UNet that can be had is fast enough; the message says what an image can take.
    """
    least_ms, most_ms = (aim.with_unet_ms(ms).total_ms for ms in (smallest_ms, full_ms))
    budget_ms = aim.with_unet_ms(full_ms).unet_budget_ms(image_budget_ms)
    if budget_ms < smallest_ms:
        raise BudgetError(
            f"an image in {image_budget_ms:.2f} ms leaves {budget_ms:.2f} ms for one run of the UNet, of which there "
            f"are {aim.unet_runs}, and the smallest takes {smallest_ms:.2f} ms; attainable for the image is "
            f"{least_ms:.2f} ms to {most_ms:.2f} ms (the full UNet)"
        )
    return budget_ms
