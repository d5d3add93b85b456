"""Step 9: CLIP's vision tower, against the frozen text tower. Resumes from its last checkpoint.

    python recipes/emoji/train_vision_tower.py --cpu-minutes 40

It learns to match captions, and to give each picture the embedding that the head on EfficientNet-Lite0 gives it
(step 6), while it sees the same picture blurred, roughened or redrawn by the autoencoder, since it will judge generated
pictures. For most of the budget half of the patches are left out, which halves the cost of a step. Writes
`clip/vision/final.pt`.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from augment import degrade
from checkpoints import Curve, latest, save_atomically
from clip_model import (
    load_clip,
    load_tokenizer,
    normalise,
    ranks,
    recall,
    retrieval,
    text_embeddings,
    vision_embeddings,
)
from data import load_split
from embed_pictures import to_batch
from settings import CLIP
from train_text_tower import Trained
from transformers import CLIPModel

FOLDER = CLIP / "vision"
PEAK_RATE = 1e-3
WHOLE_FROM = 0.7  # the part of the budget after which every patch is seen
LOGIT_SCALE = 20.0
REDRAWN_SHARE = 0.33


class Views:
    """Train pictures under every fixed change, the teacher's embedding of each, and captions' embeddings."""

    def __init__(self, clip: CLIPModel) -> None:
        tokenizer = load_tokenizer()
        numbers = sorted(int(path.stem.split("-")[1]) for path in CLIP.glob("features-[0-9]*.npy"))
        self.images = [np.load(CLIP / f"views-{number}.npy") for number in numbers]
        self.redrawn = [np.load(path) for path in sorted(CLIP.glob("redrawn-*.npy"))]
        teacher = Trained(tokenizer)
        teacher.load_state_dict(torch.load(CLIP / "text" / "final.pt", weights_only=True))
        teacher.eval()
        pairs = load_split("train").pairs
        with torch.no_grad():
            features = [torch.from_numpy(np.load(CLIP / f"features-{number}.npy")).float() for number in numbers]
            self.targets = torch.stack([teacher.image_head(part) for part in features])
            self.texts = text_embeddings(clip, tokenizer, [pair["caption"] for pair in pairs])
        concepts = {concept: index for index, concept in enumerate(sorted({pair["concept"] for pair in pairs}))}
        self.concepts = torch.tensor([concepts[pair["concept"]] for pair in pairs])

    def draw(self, count: int, generator: torch.Generator):
        """Pictures [n x 3 x 64 x 64], teacher's embeddings, texts' embeddings, concepts."""
        picks = torch.randint(self.targets.shape[1], (count,), generator=generator)
        # The redrawn ones come first: round k of them is round k of the views.
        redrawn = int(REDRAWN_SHARE * count) if self.redrawn else 0
        few = torch.randint(max(1, len(self.redrawn)), (redrawn,), generator=generator)
        rounds = torch.cat([few, torch.randint(len(self.images), (count - redrawn,), generator=generator)])
        sources = [self.redrawn] * redrawn + [self.images] * (count - redrawn)
        images = [source[number][pick] for source, number, pick in zip(sources, rounds, picks, strict=True)]
        return to_batch(np.stack(images)), self.targets[rounds, picks], self.texts[picks], self.concepts[picks]


def embed_some(clip: CLIPModel, images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Normalised embeddings from a random share of the patches (the same patches for the whole batch)."""
    vision = clip.vision_model
    states = vision.embeddings(normalise(images))
    patches = states.shape[1] - 1
    kept = 1 + torch.randperm(patches, generator=generator)[: int(share * patches)]
    states = vision.pre_layrnorm(torch.cat([states[:, :1], states[:, kept]], dim=1))
    pooled = vision.encoder(inputs_embeds=states).last_hidden_state[:, 0]
    return F.normalize(clip.visual_projection(vision.post_layernorm(pooled)), dim=-1)


def loss_of(found: torch.Tensor, targets: torch.Tensor, texts: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
    """Distance to the teacher's embedding, and matching captions, where captions of one concept are all right."""
    same = (concepts[:, None] == concepts[None, :]).float()
    right = same / same.sum(1, keepdim=True)
    scores = LOGIT_SCALE * found @ texts.T
    matching = -(right * scores.log_softmax(1)).sum(1).mean() - (right * scores.log_softmax(0)).sum(0).mean()
    return 2 * (1 - (found * targets).sum(1).mean()) + 0.25 * matching


@torch.no_grad()
def score(clip: CLIPModel, held_out: dict) -> dict[str, float]:
    clip.eval()
    result = retrieval(vision_embeddings(clip, held_out["images"]), held_out["texts"], held_out["pairs"])
    train = held_out["train"]
    found = ranks(vision_embeddings(clip, train["images"]), train["texts"], torch.arange(len(train["images"])))
    clip.train()
    return {**result, "train_recall_at_5": recall(found, 5)}


def validation_set(clip: CLIPModel) -> dict:
    """Validation pictures, and 200 train pictures of different concepts for comparison."""
    split, train, tokenizer = load_split("validation"), load_split("train"), load_tokenizer()
    first = {pair["concept"]: index for index, pair in enumerate(train.pairs)}
    picks = list(first.values())[::6][:200]
    with torch.no_grad():
        texts = text_embeddings(clip, tokenizer, [pair["caption"] for pair in split.pairs])
        known = text_embeddings(clip, tokenizer, [train.pairs[pick]["caption"] for pick in picks])
    return {"images": to_batch(split.images), "texts": texts, "pairs": split.pairs,
            "train": {"images": to_batch(train.images[picks]), "texts": known}}  # fmt: skip


def vision_state(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """The vision tower's weights, and how sharp its matches are."""
    state = {name: value for name, value in clip.state_dict().items() if name.startswith("vis")}
    return {**state, "logit_scale": torch.tensor(LOGIT_SCALE).log()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu-minutes", type=float, default=40)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    generator, clip = torch.Generator().manual_seed(0), load_clip()
    learning = [*clip.vision_model.parameters(), *clip.visual_projection.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=PEAK_RATE, weight_decay=0.05, betas=(0.9, 0.98))
    curve, step, before = Curve(), 0, 0.0
    if state := latest(FOLDER):
        clip.load_state_dict(state["model"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        curve, step, before = Curve(state["curve"]), state["step"], state["spent"]
    held_out, views, saved, begin = validation_set(clip), Views(clip), time.monotonic(), time.process_time()
    while (progress := (before + time.process_time() - begin) / (60 * arguments.cpu_minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1, (step + 1) / 200) * max(0.01, 1 - progress)
        images, targets, texts, concepts = views.draw(arguments.batch_size, generator)
        share = 0.5 if progress < WHOLE_FROM else 1.0
        loss = loss_of(embed_some(clip, degrade(images, generator), share, generator), targets, texts, concepts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        step += 1
        curve.add(step, loss=loss.item())
        if step % 100 == 0:
            print(f"step {step} {progress:.1%} {curve.summary(100)} {score(clip, held_out)}", flush=True)
        if time.monotonic() - saved > 180:
            save_atomically(FOLDER, {"model": vision_state(clip), "optimizer": optimizer.state_dict(), "step": step,
                            "generator": generator.get_state(), "curve": curve.rows,
                            "spent": before + time.process_time() - begin})  # fmt: skip
            torch.save(vision_state(clip), FOLDER / "final.pt")
            saved = time.monotonic()
    print(f"validation {score(clip, held_out)}", flush=True)
    torch.save(vision_state(clip), FOLDER / "final.pt")
    np.savez(FOLDER / "curve.npz", **curve.arrays())


if __name__ == "__main__":
    main()
