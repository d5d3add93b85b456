"""How much smaller and faster does an image decoder become, and how close do its pictures stay to the original's?

The decoder is pruned, refitted and distilled on latents, and compared with the original on latents that it has not
seen: parameters, time (both measured in turns, in one run) and PSNR between the two decoders' pictures, with weights as
they were inherited, refitted in closed form, and distilled.

    python benchmarks/decoder.py --vae emoji --steps 3000 --workdir run --json decoder_emoji.json
    python benchmarks/decoder.py --vae taesd --weights TAESD --photos PHOTOS --steps 3000 --workdir run

`emoji` is the bundled autoencoder: it learns on latents that the bundled UNet sampled for train captions and encoded
validation pictures; unseen are encoded test pictures and latents sampled for test captions. `taesd` is TAESD (MIT,
https://github.com/madebyollin/taesd), which this project did not train, from a folder with its two safetensors files;
it learns on pieces of all photos of a folder but every fifth, which are the unseen ones. Interrupted and started again
with the same `--workdir`, it goes on from where it was.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import write_report
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import nas
from nas.decoder import (
    DecoderComparison,
    GivenLatents,
    compare_decoders,
    distil_decoder,
    encode_pictures,
    prune_decoder,
)
from nas.errors import NasError
from nas.latency import measure_decoders_ms
from nas.quality import load_captions, load_pictures
from nas.training import synthetic_data

# Latents are cut into pieces of so many rows and columns: 128 x 128 pixels.
PIECE = 16
# Latents on which weights are refitted.
REFIT = 64


@dataclass(frozen=True)
class Subject:
    """An autoencoder with its latents.

    Attributes:
        vae: the autoencoder.
        train: latents to learn on.
        unseen: by name, latents to compare on.
        size: rows and columns of a whole latent, for the timing.
    """

    vae: nn.Module
    train: GivenLatents
    unseen: dict[str, Tensor]
    size: tuple[int, int]


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        write_report(measure(arguments), arguments.json)
    except (NasError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vae", choices=sorted(SUBJECTS), required=True)
    parser.add_argument(
        "--keep", type=shares_of, default=[0.5], help="share of the channels, or one for each level: 0.5,0.4,0.4"
    )
    parser.add_argument("--steps", type=int, default=3000, help="of distillation")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema-decay", type=float, default=0.99)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=512, help="latents that the UNet samples to learn on")
    parser.add_argument("--pictures", type=int, default=200, help="unseen ones of each kind, at most")
    parser.add_argument("--workdir", type=Path, help="for checkpoint, sampled latents and the slim autoencoder")
    parser.add_argument("--weights", type=Path, help="folder of TAESD's safetensors files")
    parser.add_argument("--photos", type=Path, help="folder of photos")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args(argv)


def shares_of(text: str) -> list[float]:
    return [float(share) for share in text.split(",")]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    subject = SUBJECTS[arguments.vae](arguments)
    shares = arguments.keep if len(arguments.keep) > 1 else arguments.keep[0]
    inherited = compared(prune_decoder(subject.vae, shares), subject)
    slim = prune_decoder(subject.vae, shares, latents=subject.train.draw(0, batch_size=REFIT, seed=arguments.seed))
    refitted = compared(slim, subject)
    distil_decoder(
        slim,
        subject.vae,
        subject.train,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        ema_decay=arguments.ema_decay,
        seed=arguments.seed,
        checkpoint=None if arguments.workdir is None else arguments.workdir / f"{arguments.vae}.pt",
    )
    if arguments.workdir is not None:
        slim.save_pretrained(arguments.workdir / arguments.vae)
    trained = compared(slim, subject)
    told = ("vae", "keep", "steps", "batch_size", "learning_rate", "ema_decay", "seed")
    figures = {name: getattr(arguments, name) for name in told}
    figures["channels"] = list(slim.config.decoder_block_out_channels)
    first = next(iter(trained.values()))
    figures |= {name: first.figures()[name] for name in ("parameters", "original_parameters", "times_fewer")}
    figures |= times(slim, subject)
    for name, found in trained.items():
        figures |= {
            f"{name}_pictures": len(found.psnr_db),
            f"{name}_psnr_db_inherited": inherited[name].mean_psnr_db,
            f"{name}_psnr_db_refitted": refitted[name].mean_psnr_db,
            f"{name}_psnr_db": found.mean_psnr_db,
            f"{name}_worst_psnr_db": min(found.psnr_db),
        }
    return figures


def compared(slim: nn.Module, subject: Subject) -> dict[str, DecoderComparison]:
    return {name: compare_decoders(slim, subject.vae, latents) for name, latents in subject.unseen.items()}


def times(slim: nn.Module, subject: Subject) -> dict[str, Any]:
    """What both take for one picture."""
    rows, columns = subject.size
    found = measure_decoders_ms({"slim": slim, "original": subject.vae}, height=rows, width=columns)
    return {
        "latent": f"{rows}x{columns}",
        "ms": found["slim"].latency_ms,
        "original_ms": found["original"].latency_ms,
        "times_faster": found["original"].latency_ms / found["slim"].latency_ms,
        "drift": {name: row.drift for name, row in found.items()},
    }


# The bundled autoencoder.


def emoji(arguments: argparse.Namespace) -> Subject:
    pipe = StableDiffusionPipeline.from_pretrained(nas.bundled("emoji"), local_files_only=True)
    sampled = {
        split: synthetic_data(
            pipe,
            captions,
            seed=seed,
            path=None if arguments.workdir is None else arguments.workdir / f"{split}.safetensors",
        ).latents
        for split, captions, seed in (
            ("train", load_captions("emoji", "train", count=arguments.samples, drawn_only=True), 1),
            ("test", load_captions("emoji", "test", count=64), 2),
        )
    }
    encoded = {
        split: encode_pictures(pipe.vae, values(load_pictures("emoji", split))) for split in ("validation", "test")
    }
    learned = torch.cat([sampled["train"], encoded["validation"]])
    unseen = {"encoded": encoded["test"][: arguments.pictures], "sampled": sampled["test"][: arguments.pictures]}
    return Subject(pipe.vae, GivenLatents(learned), unseen, tuple(learned.shape[2:]))


# An autoencoder from elsewhere.


def taesd(arguments: argparse.Namespace) -> Subject:
    if arguments.weights is None or arguments.photos is None:
        raise NasError("TAESD is not part of this project: say with --weights and --photos where it and photos lie")
    vae = load_taesd(arguments.weights)
    files = sorted(arguments.photos.glob("*.jpg"))
    if len(files) < 5:
        raise NasError(f"there are {len(files)} photos in {arguments.photos}; give a folder of .jpg with --photos")
    latents = encode_pictures(vae, photos(files), batch_size=4)
    is_unseen = torch.arange(len(files)) % 5 == 4
    learned = latents[~is_unseen]
    unseen = {"photos": latents[is_unseen][: arguments.pictures]}
    return Subject(vae, GivenLatents(learned, crop=PIECE), unseen, tuple(learned.shape[2:]))


def load_taesd(folder: Path) -> AutoencoderTiny:
    """TAESD's own files: layers have their numbers in a sequence, of which the decoder's first is not in diffusers'."""
    state = {}
    for name, first in (("encoder", 0), ("decoder", 1)):
        for key, tensor in load_file(folder / f"taesd_{name}.safetensors").items():
            number, _, rest = key.partition(".")
            state[f"{name}.layers.{int(number) - first}.{rest}"] = tensor.float()
    vae = AutoencoderTiny()
    vae.load_state_dict(state)
    return vae.eval()


def photos(files: list[Path], *, side: int = 256) -> Tensor:
    """Photos squeezed into squares `[n x 3 x side x side]`, values from 0 to 1."""
    found = []
    for file in files:
        with Image.open(file) as picture:
            found.append(np.asarray(picture.convert("RGB").resize((side, side))))
    return values(np.stack(found))


def values(pictures: np.ndarray) -> Tensor:
    """Bytes `[n x h x w x 3]` as values from 0 to 1 `[n x 3 x h x w]`."""
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 255


SUBJECTS = {"emoji": emoji, "taesd": taesd}


if __name__ == "__main__":
    sys.exit(main())
