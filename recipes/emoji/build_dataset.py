"""Step 2: pictures and captions, 64x64 on white, split by concept into train, validation and test.

    python recipes/emoji/build_dataset.py

Writes `images.npy` (uint8, [n x 64 x 64 x 3]) and `pairs.json` (caption, style, concept, keywords, split per picture).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image
from settings import DATASET, IMAGE_SIZE, STYLES, UNPACKED

LEFT_OUT = {"Flags", "Component"}
TEST_CONCEPTS = 200
VALIDATION_CONCEPTS = 100
# "man shrugging" and "woman shrugging" are one concept for the split: neither may leak into the other's side.
GENDER = re.compile(r"\b(man|woman|men|women|boy|girl|person|people|male|female)\b")


def picture_path(style: str, unified: str) -> Path:
    name = unified.lower()
    if style == "fluent":
        return UNPACKED / "fluent/package/assets" / f"{name}.webp"
    vendor = {"noto": "google", "twemoji": "twitter"}[style]
    return UNPACKED / style / "package/img" / vendor / "64" / f"{name}.png"


def load_picture(path: Path) -> np.ndarray:
    """A picture on white as uint8 [64 x 64 x 3]."""
    picture = Image.open(path).convert("RGBA")
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    if canvas.size != (IMAGE_SIZE, IMAGE_SIZE):
        canvas = canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    return np.asarray(canvas.convert("RGB"))


def concept_name(unified: str, entry: dict, keywords: dict[str, list[str]]) -> tuple[str, list[str]]:
    """The plain-English name of an emoji and its other keywords."""
    character = "".join(chr(int(code, 16)) for code in unified.split("-"))
    words = keywords.get(character) or keywords.get(character.replace("\ufe0f", "")) or []
    words = [re.sub(r"[^a-z0-9 ]+", " ", word.lower().replace("_", " ")).strip() for word in words]
    words = [re.sub(r" +", " ", word) for word in words if word]
    if words:
        return words[0], words[1:]
    return re.sub(r"[^a-z0-9 ]+", " ", entry["name"].lower()).strip(), []


def split_key(name: str) -> str:
    """Concepts with the same key are on the same side of the split."""
    key = re.sub(r" +", " ", GENDER.sub("", name)).strip() or name
    return "o clock" if re.search(r"\bo ?clock|thirty\b", name) else key


def assign_splits(names: list[str]) -> dict[str, str]:
    """Split name -> 'train' | 'validation' | 'test', by a hash of the concept's key, so that it never moves."""
    order = sorted({split_key(name) for name in names}, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    members: dict[str, list[str]] = {key: [] for key in order}
    for name in dict.fromkeys(names):
        members[split_key(name)].append(name)
    splits: dict[str, str] = {}
    for key in order:
        counts = {side: sum(value == side for value in splits.values()) for side in ("test", "validation")}
        size = len(members[key])
        if counts["test"] + size <= TEST_CONCEPTS:
            side = "test"
        elif counts["validation"] + size <= VALIDATION_CONCEPTS:
            side = "validation"
        else:
            side = "train"
        splits.update(dict.fromkeys(members[key], side))
    return splits


def caption(style: str, name: str) -> str:
    article = "an" if name[0] in "aeiou" else "a"
    return f"a {STYLES[style]} emoji of {article} {name}"


def main() -> None:
    entries = json.loads((UNPACKED / "noto/package/emoji.json").read_text())
    keywords = json.loads((UNPACKED / "emojilib/package/dist/emoji-en-US.json").read_text())
    images, pairs = [], []
    for entry in entries:
        if entry["category"] in LEFT_OUT:
            continue
        name, words = concept_name(entry["unified"], entry, keywords)
        for style in STYLES:
            path = picture_path(style, entry["unified"])
            if path.exists():
                images.append(load_picture(path))
                pairs.append({"caption": caption(style, name), "style": style, "concept": name, "keywords": words,
                              "category": entry["category"], "unified": entry["unified"]})  # fmt: skip
    splits = assign_splits([pair["concept"] for pair in pairs])
    for pair in pairs:
        pair["split"] = splits[pair["concept"]]
    DATASET.mkdir(parents=True, exist_ok=True)
    np.save(DATASET / "images.npy", np.stack(images))
    (DATASET / "pairs.json").write_text(json.dumps(pairs, indent=1))
    for side in ("train", "validation", "test"):
        chosen = [pair for pair in pairs if pair["split"] == side]
        print(f"{side}: {len({pair['concept'] for pair in chosen})} concepts, {len(chosen)} pictures")


if __name__ == "__main__":
    main()
