"""`nas generate`: pictures from prompts, with the bundled pipeline, another one, or an evolved network in it."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli._options import add_command, add_compute_on, add_seed
from nas.cli._report import Report, columns
from nas.cli._values import count, number

if TYPE_CHECKING:
    from PIL.Image import Image


def add_to(commands: Any) -> None:
    """Add `nas generate`."""
    parser = add_command(commands, "generate", _generate, "Draw a picture for each prompt.")
    parser.add_argument(
        "prompts", nargs="+", metavar="PROMPT", help='what to draw, for example "a 3d emoji of an apple"'
    )
    parser.add_argument("--pipeline", type=Path, metavar="DIR", help="a diffusers pipeline (default: the bundled one)")
    parser.add_argument("--unet", type=Path, metavar="DIR", help="an evolved or stock UNet to put into the pipeline")
    parser.add_argument("--steps", type=count, default=25, metavar="N", help="denoising steps (default: 25)")
    parser.add_argument("--guidance-scale", type=number, default=5.0, metavar="W", help="default: 5")
    parser.add_argument("--out", type=Path, default=Path("pictures"), metavar="DIR", help="folder (default: pictures)")
    add_compute_on(parser)
    add_seed(parser)


def _generate(options: argparse.Namespace) -> Report:
    from nas.pipelines import load_pipeline, quiet_libraries

    with quiet_libraries():
        pipe = load_pipeline(options.pipeline, unet=options.unet, compute_on=options.compute_on)
    start = time.perf_counter()
    pictures = _draw(pipe, options)
    seconds = time.perf_counter() - start
    files = [_save(picture, options.out, prompt) for picture, prompt in zip(pictures, options.prompts, strict=True)]
    rows = list(zip(options.prompts, files, strict=True))
    document = {"pictures": [{"prompt": prompt, "file": file} for prompt, file in rows], "seconds": seconds}
    return Report(document, columns(rows))


def _draw(pipe: Any, options: argparse.Namespace) -> list[Image]:
    import torch

    from nas._schedulers import scheduled

    scheduled(pipe.scheduler, options.steps)  # refuses steps that there are not
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    # One generator a prompt: a picture does not change with the prompts it is drawn beside.
    generators = [torch.Generator().manual_seed(options.seed) for _ in options.prompts]
    return pipe(
        list(options.prompts),
        num_inference_steps=options.steps,
        guidance_scale=options.guidance_scale,
        generator=generators,
    ).images


def _save(picture: Image, folder: Path, prompt: str) -> Path:
    from nas._files import replacing

    stem = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:80] or "picture"
    path = folder / f"{stem}.png"
    number = 2
    while path.exists():
        path = folder / f"{stem}-{number}.png"
        number += 1
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
    return path
