"""The small CLIP: its shape, its inputs and its retrieval scores."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from settings import CLIP, CONTEXT_LENGTH, IMAGE_SIZE
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

WIDTH = 256
FEATURES = 1280
MEAN, STD = 0.75, 0.3  # of pictures on white, the same for the three channels


def load_tokenizer(folder: Path = CLIP / "tokenizer") -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder)


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIPModel with new weights: text 3 layers of 256, vision 4 layers of 192 over 8x8 patches."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT_LENGTH,
        "hidden_act": "gelu",
        "projection_dim": WIDTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "projection_dim": WIDTH,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


class ImageHead(nn.Module):
    """Frozen EfficientNet features to CLIP's embedding: the picture side while the text tower learns."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(FEATURES), nn.Dropout(0.3), nn.Linear(FEATURES, 512), nn.GELU(), nn.Dropout(0.3),
            nn.Linear(512, WIDTH, bias=False),
        )  # fmt: skip

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.layers(features), dim=-1)


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str], to_full_length: bool = False) -> torch.Tensor:
    """Token ids, [n x length]; shorter texts are padded with the end token."""
    padding = "max_length" if to_full_length else "longest"
    return tokenizer(texts, padding=padding, truncation=True, max_length=CONTEXT_LENGTH, return_tensors="pt").input_ids


def pooled_text(clip: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """The text tower's state at the first end token, [n x width]."""
    return clip.text_model(input_ids=ids).pooler_output


def text_embeddings(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Normalised embeddings, [n x width]."""
    parts = [pooled_text(clip, tokens_of(tokenizer, texts[start : start + 256])) for start in range(0, len(texts), 256)]
    return F.normalize(clip.text_projection(torch.cat(parts)), dim=-1)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Pictures in [0, 1] as the vision tower takes them."""
    return (images - MEAN) / STD


def vision_embeddings(clip: CLIPModel, images: torch.Tensor) -> torch.Tensor:
    """Normalised embeddings [n x width] of pictures [n x 3 x 64 x 64] in [0, 1]."""
    parts = [clip.vision_model(pixel_values=normalise(batch)).pooler_output for batch in images.split(64)]
    return F.normalize(clip.visual_projection(torch.cat(parts)), dim=-1)


def ranks(images: torch.Tensor, texts: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """For each picture's embedding, how many of the texts' embeddings are nearer than the text at `right`."""
    scores = images @ texts.T
    own = scores.gather(1, right[:, None])
    return (scores > own).sum(1)


def recall(found: torch.Tensor, depth: int) -> float:
    return (found < depth).float().mean().item()


def one_style_each(pairs: list[dict], draws: int = 10) -> list[list[int]]:
    """Indices of one picture per concept, its style at random, for several draws."""
    by_concept: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        by_concept.setdefault(pair["concept"], []).append(index)
    generator = torch.Generator().manual_seed(0)
    return [[members[int(torch.randint(len(members), (), generator=generator))] for members in by_concept.values()]
            for _ in range(draws)]  # fmt: skip


def retrieval(images: torch.Tensor, texts: torch.Tensor, pairs: list[dict]) -> dict[str, float]:
    """Image-to-text recall with one random style per concept, averaged over draws. Rows follow `pairs`."""
    found = []
    for picks in one_style_each(pairs):
        found.append(ranks(images[picks], texts[picks], torch.arange(len(picks))))
    return {"recall_at_1": recall(torch.cat(found), 1), "recall_at_5": recall(torch.cat(found), 5)}


def load_clip() -> CLIPModel:
    """The trained CLIP as far as it has got: its text tower, and its vision tower if that has been trained."""
    model = build_clip(load_tokenizer())
    text = torch.load(CLIP / "text" / "final.pt", weights_only=True)
    state = {name.removeprefix("clip."): value for name, value in text.items() if name.startswith("clip.")}
    vision = CLIP / "vision" / "final.pt"
    if vision.exists():
        state |= torch.load(vision, weights_only=True)
    model.load_state_dict(state, strict=vision.exists())
    return model
