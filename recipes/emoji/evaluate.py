"""Step 14: how good the bundle is. Everything is read from the bundle; nothing was tuned on test concepts.

    python recipes/emoji/evaluate.py --bundle models/emoji --json recipes/emoji/work/measured.json --grid grid.png

CLIP: image-to-text recall among unseen test concepts. Generation: how often the own caption of a generated picture is
among the five nearest of 200 train captions, and kernel distance (KID) to real train pictures over the bundled CLIP's
own image features. Robustness: the UNet's error with blocks skipped. Autoencoder: PSNR on test pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from clip_model import load_tokenizer, ranks, recall, retrieval, text_embeddings, vision_embeddings
from data import drawn, load_split, to_unit
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from embed_pictures import to_batch
from PIL import Image
from settings import HERE, STYLES
from train_autoencoder import psnr_db
from train_robust import SKIP_PROBABILITY
from transformers import CLIPModel
from unet_model import TrainSet, predict

import nas
from nas.quality import kid

GRID_COLUMNS = 20
PATHS = 30


@torch.no_grad()
def clip_scores(clip: CLIPModel, side: str) -> dict[str, float]:
    """Recall among a split's concepts: with one random style per concept, and within each style."""
    split = load_split(side)
    images = vision_embeddings(clip, to_batch(split.images))
    texts = text_embeddings(clip, load_tokenizer(), [pair["caption"] for pair in split.pairs])
    result = {"concepts": len({pair["concept"] for pair in split.pairs}), **retrieval(images, texts, split.pairs)}
    for source, style in STYLES.items():
        picks = [index for index, pair in enumerate(split.pairs) if pair["style"] == source]
        found = retrieval(images[picks], texts[picks], [split.pairs[pick] for pick in picks])
        result |= {f"{style}_{name}": value for name, value in found.items()}
    return result


def train_choice(count: int, seed: int) -> list[int]:
    """Indices of pictures that the UNet was trained on, of `count` different concepts, styles at random."""
    pairs = load_split("train").pairs
    order = np.random.default_rng(seed).permutation(drawn(pairs))
    first: dict[str, int] = {}
    for index in order:
        first.setdefault(pairs[index]["concept"], int(index))
    return list(first.values())[:count]


def generate(pipe: StableDiffusionPipeline, captions: list[str], steps: int, guidance: float) -> np.ndarray:
    """Pictures, uint8 [n x 64 x 64 x 3]; picture i starts from noise of seed i."""
    pictures = []
    for start in range(0, len(captions), 20):
        prompts = captions[start : start + 20]
        seeds = [torch.Generator().manual_seed(start + offset) for offset in range(len(prompts))]
        images = pipe(prompts, num_inference_steps=steps, guidance_scale=guidance, generator=seeds).images
        pictures.extend(np.asarray(image) for image in images)
    return np.stack(pictures)


@torch.no_grad()
def pooled(clip: CLIPModel, images: np.ndarray) -> torch.Tensor:
    """Image features scaled to unit variance on average, for KID's kernel; float64."""
    width = clip.config.projection_dim
    return vision_embeddings(clip, to_batch(images)).double() * width**0.5


@torch.no_grad()
def generation_scores(clip: CLIPModel, pictures: np.ndarray, picks: list[int]) -> dict[str, float]:
    train = load_split("train")
    texts = text_embeddings(clip, load_tokenizer(), [train.pairs[pick]["caption"] for pick in picks])
    right = torch.arange(len(picks))
    found = ranks(vision_embeddings(clip, to_batch(pictures)), texts, right)
    real = ranks(vision_embeddings(clip, to_batch(train.images[picks])), texts, right)
    others = pooled(clip, train.images[np.setdiff1d(drawn(train.pairs), picks)])
    return {"captions": len(picks), "own_caption_first": recall(found, 1), "own_caption_in_top_5": recall(found, 5),
            "real_pictures_own_caption_first": recall(real, 1), "real_pictures_own_caption_in_top_5": recall(real, 5),
            "kid": kid(pooled(clip, pictures), others).value,
            "kid_of_real_pictures": kid(pooled(clip, train.images[picks]), others).value}  # fmt: skip


@torch.no_grad()
def robustness(unet: UNet2DConditionModel) -> dict[str, float]:
    """Velocity error on train latents by the whole UNet and with blocks skipped at random."""
    result, train = {}, TrainSet()
    for name, probability in (("error_whole", 0.0), ("error_blocks_skipped", SKIP_PROBABILITY)):
        supernet = nas.Supernet(unet, skip_probability=probability, seed=0).train()
        generator, errors = torch.Generator().manual_seed(0), []
        for _ in range(PATHS):
            batch = train.draw(16, generator)
            errors.append(F.mse_loss(predict(supernet, batch), batch.velocity).item())
        result[name] = float(np.mean(errors))
    return {"skip_probability": SKIP_PROBABILITY, "paths": PATHS, **result}


def save_grid(pictures: np.ndarray, path: Path) -> None:
    pictures = pictures[: len(pictures) // GRID_COLUMNS * GRID_COLUMNS]
    grid = pictures.reshape(-1, GRID_COLUMNS, *pictures.shape[1:]).transpose(0, 2, 1, 3, 4)
    Image.fromarray(grid.reshape(-1, GRID_COLUMNS * pictures.shape[2], 3)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, default=HERE.parent.parent / "models" / "emoji")
    parser.add_argument("--unet", default="unet", help="the folder of the UNet inside the bundle")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0, help="which train captions are drawn")
    parser.add_argument("--side", default="test", help="the split for CLIP and the autoencoder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--grid", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clip = CLIPModel.from_pretrained(arguments.bundle / "clip").eval()
    unet = UNet2DConditionModel.from_pretrained(arguments.bundle / arguments.unet)
    pipe = StableDiffusionPipeline.from_pretrained(arguments.bundle, unet=unet)
    pipe.set_progress_bar_config(disable=True)
    picks = train_choice(arguments.count, arguments.seed)
    captions = [load_split("train").pairs[pick]["caption"] for pick in picks]
    pictures = generate(pipe, captions, arguments.steps, arguments.guidance)
    if arguments.grid:
        save_grid(pictures, arguments.grid)
    held_out = load_split(arguments.side)
    result = {
        "clip": {"split": arguments.side, **clip_scores(clip, arguments.side)},
        "generation": {"unet": arguments.unet, "steps": arguments.steps, "guidance": arguments.guidance,
                       **generation_scores(clip, pictures, picks)},
        "robustness": robustness(unet),
        "autoencoder": {"split": arguments.side, "psnr_db": psnr_db(pipe.vae, to_unit(held_out.images))},
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
