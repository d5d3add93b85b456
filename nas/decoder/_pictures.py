"""Pictures to latents and back, and how close two decoders' pictures are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import NasError
from nas.sampling import decode_latents, placement, require_whole_number


@torch.no_grad()
def encode_pictures(vae: nn.Module, pictures: Tensor, *, batch_size: int = 16) -> Tensor:
    """Latents `[n x c x h x w]` of pictures `[n x 3 x H x W]` from 0 to 1, scaled as a UNet sees them, float32.

    Those of an `AutoencoderKL` are the modes of its distributions.
    """
    device, dtype = placement(vae)
    parts = [_encoded(vae, (2 * batch - 1).to(device, dtype)).float() for batch in pictures.split(batch_size)]
    return torch.cat(parts).cpu()


def _encoded(vae: nn.Module, pictures: Tensor) -> Tensor:
    encoded = vae.encode(pictures)
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return latents * vae.config.scaling_factor


def decoded(vae: nn.Module, latents: Tensor) -> Tensor:
    """Pictures `[b x 3 x H x W]` of latents as a UNet gives them, from -1 to 1 or a little beyond, with gradient."""
    return vae.decoder(decoder_inputs(vae, latents))


def decoder_inputs(vae: nn.Module, latents: Tensor) -> Tensor:
    """What an autoencoder gives its decoder `[b x c x h x w]` for latents as a UNet gives them."""
    latents = latents.to(*placement(vae.decoder)) / vae.config.scaling_factor
    before = getattr(vae, "post_quant_conv", None)
    return latents if before is None else before(latents)


def psnr_db(pictures: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture to its counterpart `[b]` in dB; infinite where they are equal.

    Args:
        pictures: `[b x c x h x w]`, values from 0 to 1.
        others: likewise; the order of the two does not matter.

    Raises:
        NasError: the shapes differ, or they are not pictures.
    """
    if pictures.shape != others.shape or pictures.ndim != 4:
        raise NasError(
            f"pictures have shapes {list(pictures.shape)} and {list(others.shape)}; "
            "both must be the same [n x channels x rows x columns]"
        )
    return -10 * (pictures.double() - others.double()).square().flatten(1).mean(1).log10()


@dataclass(frozen=True)
class DecoderComparison:
    """A decoder beside the one that it is to replace.

    Attributes:
        parameters: of the slim decoder.
        original_parameters: of the other.
        psnr_db: of each picture of the slim decoder to the other's, in dB.
    """

    parameters: int
    original_parameters: int
    psnr_db: tuple[float, ...]

    @property
    def times_fewer(self) -> float:
        """How many times fewer parameters the slim decoder has."""
        return self.original_parameters / self.parameters

    @property
    def mean_psnr_db(self) -> float:
        """Mean over pictures of their PSNR."""
        return sum(self.psnr_db) / len(self.psnr_db)

    def figures(self) -> dict[str, Any]:
        """What a report says."""
        return {
            "parameters": self.parameters,
            "original_parameters": self.original_parameters,
            "times_fewer": self.times_fewer,
            "mean_psnr_db": self.mean_psnr_db,
            "worst_psnr_db": min(self.psnr_db),
            "pictures": len(self.psnr_db),
        }


def compare_decoders(
    slim: nn.Module, original: nn.Module, latents: Tensor, *, batch_size: int = 16
) -> DecoderComparison:
    """Count both decoders' parameters and compare their pictures of the same latents.

    Args:
        slim: an autoencoder with the decoder in question.
        original: the autoencoder that it was made from.
        latents: `[n x c x h x w]`, scaled as a UNet gives them: ones that the slim decoder has not seen.
        batch_size: pictures at a time.

    Raises:
        NasError: there are no latents, or they have other channels.
    """
    require_latents(latents, slim.config.latent_channels)
    require_whole_number("batch_size", batch_size)
    found: list[float] = []
    for batch in latents.split(batch_size):
        found += psnr_db(decode_latents(slim, batch).cpu(), decode_latents(original, batch).cpu()).tolist()
    return DecoderComparison(count_parameters(slim.decoder), count_parameters(original.decoder), tuple(found))


def require_latents(latents: Tensor, channels: int | None = None) -> None:
    """Check that these are latents, of so many channels if it is said.

    Raises:
        NasError: they are not, there are none, or a value is not finite.
    """
    if latents.ndim != 4 or not len(latents) or channels not in (None, latents.shape[1]):
        wanted = "channels" if channels is None else channels
        raise NasError(f"latents have shape {list(latents.shape)}; they must be [n x {wanted} x rows x columns]")
    if not torch.isfinite(latents).all():
        raise NasError("latents hold values that are not finite; sample or encode them again")


def count_parameters(module: nn.Module) -> int:
    """How many weights a module has."""
    return sum(parameter.numel() for parameter in module.parameters())
