"""Step 6: CLIP's text tower. Resumes from its last checkpoint.

    python recipes/emoji/train_text_tower.py --cpu-minutes 30

First it learns what phrases mean from a frozen sentence encoder (all-MiniLM-L6-v2), over a whole dictionary, so that
words never seen with a picture have a meaning. Then it also learns to match pictures, seen through the features of a
frozen EfficientNet-Lite0 and a small head. Writes `clip/text/final.pt`.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
import torch.nn.functional as F
from checkpoints import Curve, latest, save_atomically
from clip_model import ImageHead, build_clip, load_tokenizer, pooled_text, retrieval, text_embeddings, tokens_of
from data import load_split
from phrases import article, dress
from settings import CLIP, STYLES
from torch import nn

FOLDER = CLIP / "text"
PEAK_RATE = 1e-3
MATCHING_FROM = 0.6  # the part of the budget after which pictures come in
GROUP_SHARE = {"train": 0.3, "words": 0.3, "nouns": 0.3, "pairs": 0.1}
MEANING_TEMPERATURE = 0.05


class Phrases:
    """Phrases by group with their meanings."""

    def __init__(self) -> None:
        self.groups = json.loads((CLIP / "phrases.json").read_text())
        self.meanings = torch.from_numpy(np.load(CLIP / "meanings.npy")).float()
        sizes = np.cumsum([0] + [len(group) for group in self.groups.values()])
        self.starts = dict(zip(self.groups, sizes, strict=False))

    def draw(self, count: int, random: np.random.Generator) -> tuple[list[str], torch.Tensor]:
        names = random.choice(list(GROUP_SHARE), size=count, p=list(GROUP_SHARE.values()))
        picks = [int(random.integers(len(self.groups[name]))) for name in names]
        texts = [self.groups[name][pick] for name, pick in zip(names, picks, strict=True)]
        rows = [self.starts[name] + pick for name, pick in zip(names, picks, strict=True)]
        return texts, self.meanings[rows]


class Pictures:
    """Train pictures' features under every view, drawn with at most one picture per concept."""

    def __init__(self) -> None:
        paths = sorted(CLIP.glob("features-[0-9]*.npy"))
        self.features = np.stack([np.load(path) for path in paths])
        self.pairs = load_split("train").pairs
        concepts = sorted({pair["concept"] for pair in self.pairs})
        members: dict[str, list[int]] = {concept: [] for concept in concepts}
        for index, pair in enumerate(self.pairs):
            members[pair["concept"]].append(index)
        self.members = list(members.values())

    def draw(self, count: int, random: np.random.Generator) -> tuple[list[str], torch.Tensor]:
        concepts = random.choice(len(self.members), size=count, replace=False)
        picks = [int(random.choice(self.members[concept])) for concept in concepts]
        rounds = random.integers(len(self.features), size=count)
        texts = [self.words_for(self.pairs[pick], random) for pick in picks]
        return texts, torch.from_numpy(self.features[rounds, picks]).float()

    @staticmethod
    def words_for(pair: dict, random: np.random.Generator) -> str:
        phrase = pair["concept"]
        if pair["keywords"] and random.random() < 0.4:
            phrase = str(random.choice(pair["keywords"]))
        if random.random() < 0.25:
            return phrase
        return f"a {STYLES[pair['style']]} emoji of {article(phrase)} {phrase}"


class Trained(nn.Module):
    """All that learns here."""

    def __init__(self, tokenizer) -> None:
        super().__init__()
        self.clip = build_clip(tokenizer)
        del self.clip.vision_model, self.clip.visual_projection
        self.to_meaning = nn.Linear(self.clip.text_projection.in_features, 384)
        self.image_head = ImageHead()
        self.logit_scale = nn.Parameter(torch.tensor(3.0))


def start_from_meanings(clip) -> None:
    """Token embeddings: the first principal components of what each token means to the sentence encoder."""
    meanings = torch.from_numpy(np.load(CLIP / "token-meanings.npy")).float()
    centred = meanings - meanings.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    width = clip.text_projection.in_features
    reduced = centred @ directions[:width].T
    with torch.no_grad():
        clip.text_model.embeddings.token_embedding.weight.copy_(0.05 * reduced / reduced.std())
        clip.text_model.embeddings.position_embedding.weight.normal_(std=0.01)


def meaning_loss(model: Trained, tokenizer, phrases: Phrases, count: int, random: np.random.Generator) -> torch.Tensor:
    """Distance to the sentence encoder's embedding of the bare phrase, and telling the batch's phrases apart."""
    texts, targets = phrases.draw(count, random)
    if random.random() < 0.35:
        texts = [dress(text, random) for text in texts]
    guessed = F.normalize(model.to_meaning(pooled_text(model.clip, tokens_of(tokenizer, texts))), dim=-1)
    cosine = (guessed * targets).sum(1).mean()
    scores = guessed @ targets.T / MEANING_TEMPERATURE
    return (1 - cosine) + 0.2 * F.cross_entropy(scores, torch.arange(count))


def matching_loss(model: Trained, tokenizer, pictures: Pictures, count: int, random) -> torch.Tensor:
    texts, features = pictures.draw(count, random)
    text = F.normalize(model.clip.text_projection(pooled_text(model.clip, tokens_of(tokenizer, texts))), dim=-1)
    scores = model.image_head(features) @ text.T * model.logit_scale.exp().clamp(max=50)
    right = torch.arange(count)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def parameter_groups(model: Trained) -> list[dict]:
    tower = list(model.clip.text_model.parameters())
    rest = [*model.clip.text_projection.parameters(), *model.to_meaning.parameters()]
    head = list(model.image_head.parameters())
    return [{"params": tower, "weight_decay": 0.01, "scale": 1.0}, {"params": rest, "weight_decay": 0.01, "scale": 1.0},
            {"params": head, "weight_decay": 0.1, "scale": 1.0},
            {"params": [model.logit_scale], "weight_decay": 0.0, "scale": 1.0}]  # fmt: skip


def set_rates(optimizer: torch.optim.Optimizer, step: int, progress: float) -> None:
    """Warm-up and decay, twice; when pictures come in, the tower goes on at a lower rate than the heads."""
    matching = progress >= MATCHING_FROM
    start, end = (MATCHING_FROM, 1.0) if matching else (0.0, MATCHING_FROM)
    left = 1 - (progress - start) / (end - start)
    base = PEAK_RATE * min(1, (step + 1) / 100) * max(0.02, left)
    for number, group in enumerate(optimizer.param_groups):
        group["lr"] = base * (0.3 if matching and number == 0 else 1.0)


@torch.no_grad()
def score(model: Trained, tokenizer, side: str) -> dict[str, float]:
    """Retrieval on a held-out side by the head on EfficientNet features."""
    model.eval()
    features = torch.from_numpy(np.load(CLIP / f"features-{side}.npy")).float()
    pairs = load_split(side).pairs
    texts = text_embeddings(model.clip, tokenizer, [pair["caption"] for pair in pairs])
    result = retrieval(model.image_head(features), texts, pairs)
    model.train()
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu-minutes", type=float, default=30)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    random, tokenizer = np.random.default_rng(0), load_tokenizer()
    model = Trained(tokenizer)
    start_from_meanings(model.clip)
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=(0.9, 0.98))
    curve, step, before = Curve(), 0, 0.0
    if state := latest(FOLDER):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        random = np.random.default_rng(state["step"])
        curve, step, before = Curve(state["curve"]), state["step"], state["spent"]
    phrases, pictures, saved, begin = Phrases(), None, time.monotonic(), time.process_time()
    while (progress := (before + time.process_time() - begin) / (60 * arguments.cpu_minutes)) < 1:
        set_rates(optimizer, step, progress)
        loss = meaning = meaning_loss(model, tokenizer, phrases, arguments.batch_size, random)
        values = {"meaning": meaning.item()}
        if progress >= MATCHING_FROM:
            pictures = pictures or Pictures()
            matching = matching_loss(model, tokenizer, pictures, arguments.batch_size, random)
            loss = meaning + 0.5 * matching
            values["matching"] = matching.item()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        curve.add(step, **values)
        if step % 50 == 0:
            print(f"step {step} {progress:.1%} {curve.summary(50)} {score(model, tokenizer, 'validation')}", flush=True)
        if time.monotonic() - saved > 120:
            spent = before + time.process_time() - begin
            save_atomically(FOLDER, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                            "curve": curve.rows, "spent": spent})  # fmt: skip
            saved = time.monotonic()
    print(f"validation {score(model, tokenizer, 'validation')}", flush=True)
    torch.save(model.state_dict(), FOLDER / "final.pt")
    np.savez(FOLDER / "curve.npz", **curve.arrays())


if __name__ == "__main__":
    main()
