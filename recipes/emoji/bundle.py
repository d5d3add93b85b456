"""Step 13: put everything together as a folder that StableDiffusionPipeline.from_pretrained reads.

    python recipes/emoji/bundle.py --out models/emoji

Works from whatever has been trained so far. Weights are stored as float16; configs say float32, so that they are
read as float32 unless asked otherwise.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from checkpoints import load_autoencoder
from clip_model import MEAN, STD, load_clip, load_tokenizer
from data import drawn, load_split
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from settings import HERE, IMAGE_SIZE, ROBUST, STYLES, UNET
from unet_model import build_scheduler

SHEET_COLUMNS = 20
FOLDERS = ("clip", "text_encoder", "tokenizer", "vae", "unet", "unet_robust", "scheduler", "captions", "pictures")
SPLITS = ("train", "validation", "test")


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_module(model: torch.nn.Module, folder: Path) -> None:
    """A diffusers model as float16 safetensors, its config without the path that it was read from."""
    model.half().save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    write_json(folder / "config.json", config)


def write_transformers_module(state: dict[str, torch.Tensor], config: dict, folder: Path) -> None:
    """A transformers model as float16 safetensors, with tensor names and dtype key of every version since 4.56."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.half().contiguous() for name, value in state.items() if "position_ids" not in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for part in (config, config.get("text_config", {}), config.get("vision_config", {})):
        part.pop("transformers_version", None)
        part.pop("dtype", None)
    write_json(folder / "config.json", {**config, "torch_dtype": "float32"})


def write_tokenizer(folder: Path) -> None:
    """The tokenizer, with the two files that older transformers read beside the one that newer ones do."""
    tokenizer = load_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    whole = tokenizer.backend_tokenizer.to_str(pretty=False)
    (folder / "tokenizer.json").write_text(whole, encoding="utf-8")
    model = json.loads(whole)["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    merges = "\n".join(" ".join(merge) for merge in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
    special |= {"pad_token": tokenizer.pad_token, "unk_token": tokenizer.unk_token}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.model_max_length, **special}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", special)


def write_image_processor(folder: Path) -> None:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    write_json(folder / "preprocessor_config.json", {
        "image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_resize": True, "size": size,
        "resample": 3, "do_center_crop": False, "crop_size": size, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [MEAN] * 3, "image_std": [STD] * 3})  # fmt: skip


def write_clip(out: Path) -> None:
    """The whole CLIP in `clip/`, and its text tower in `text_encoder/`."""
    clip = load_clip()
    write_transformers_module(clip.state_dict(), clip.config.to_dict(), out / "clip")
    write_tokenizer(out / "clip")
    write_image_processor(out / "clip")
    text = {f"text_model.{name}": value for name, value in clip.text_model.state_dict().items()}
    config = {**clip.config.text_config.to_dict(), "architectures": ["CLIPTextModel"], "model_type": "clip_text_model"}
    write_transformers_module(text, config, out / "text_encoder")
    write_tokenizer(out / "tokenizer")


def write_index(out: Path) -> None:
    write_json(out / "model_index.json", {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.35.0",
        "feature_extractor": [None, None], "image_encoder": [None, None], "requires_safety_checker": False,
        "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]})  # fmt: skip


def write_data(out: Path) -> None:
    """Captions of every split, and sheets of the held-out pictures in the captions' order.

    `drawn` marks the train captions that the UNet was trained on.
    """
    for side in SPLITS:
        split = load_split(side)
        rows = [{"caption": pair["caption"], "style": STYLES[pair["style"]], "concept": pair["concept"],
                 "source": pair["style"], "category": pair["category"]} for pair in split.pairs]  # fmt: skip
        if side == "train":
            trained = set(drawn(split.pairs))
            rows = [{**row, "drawn": index in trained} for index, row in enumerate(rows)]
        write_json(out / "captions" / f"{side}.json", rows)
        if side != "train":
            write_sheet(split.images, out / "pictures" / f"{side}.png")


def write_sheet(images: np.ndarray, path: Path) -> None:
    """Pictures as one, row by row, 20 to a row, white where none is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blank = -len(images) % SHEET_COLUMNS
    padded = np.concatenate([images, np.full((blank, *images.shape[1:]), 255, dtype=np.uint8)])
    grid = padded.reshape(-1, SHEET_COLUMNS, IMAGE_SIZE, IMAGE_SIZE, 3).transpose(0, 2, 1, 3, 4)
    Image.fromarray(grid.reshape(-1, SHEET_COLUMNS * IMAGE_SIZE, 3)).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=HERE.parent.parent / "models" / "emoji")
    out = parser.parse_args().out
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)
    write_clip(out)
    write_module(load_autoencoder(), out / "vae")
    write_module(UNet2DConditionModel.from_pretrained(UNET / "final"), out / "unet")
    robust = ROBUST / "final"
    if robust.exists():
        write_module(UNet2DConditionModel.from_pretrained(robust), out / "unet_robust")
    build_scheduler().save_pretrained(out / "scheduler")
    write_data(out)
    write_index(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
