"""Step 5: the tokenizer, the phrases and their meanings (sentence embeddings by a frozen all-MiniLM-L6-v2).

    python recipes/emoji/build_text.py

Writes `clip/tokenizer/`, `clip/phrases.json` (phrases by group), `clip/meanings.npy` (float16, [phrases x 384], in the
order of the groups) and `clip/token-meanings.npy` (float16, [vocabulary x 384]).
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from phrases import MINILM, phrase_groups
from settings import CLIP, CONTEXT_LENGTH, STYLES
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertModel, CLIPTokenizer

VOCABULARY_SIZE = 6144
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def word_counts(groups: dict[str, list[str]]) -> dict[str, int]:
    """How often each word counts for the byte-pair merges: Zipf's law for common words, more for captions' words."""
    counts = {word: 1 + 20000 // (200 + rank) for rank, word in enumerate(groups["words"])}
    for group, weight in (("nouns", 2), ("train", 20)):
        for phrase in groups[group]:
            for word in phrase.split():
                counts[word] = counts.get(word, 0) + weight
    return counts


def byte_pair_merges(counts: dict[str, int], size: int) -> list[tuple[str, str]]:
    trainer = trainers.BpeTrainer(vocab_size=size, end_of_word_suffix="</w>", show_progress=False, special_tokens=[])
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator((" ".join([word] * count) for word, count in counts.items()), trainer)
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


def build_tokenizer(groups: dict[str, list[str]]) -> CLIPTokenizer:
    """CLIP's tokenizer with its own vocabulary: bytes, bytes that end a word, merges, start, end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    merges = byte_pair_merges(word_counts(groups), VOCABULARY_SIZE)
    merges = merges[: VOCABULARY_SIZE - len(tokens) - 2]
    tokens += ["".join(merge) for merge in merges] + [BOS, EOS]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)


@torch.inference_mode()
def meanings(phrases: list[str], batch_size: int = 256) -> np.ndarray:
    """Normalised sentence embeddings [n x 384] by all-MiniLM-L6-v2."""
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    model = BertModel.from_pretrained(MINILM, add_pooling_layer=False).eval()
    order = np.argsort([len(phrase) for phrase in phrases])
    result = np.zeros((len(phrases), 384), dtype=np.float16)
    for start in range(0, len(phrases), batch_size):
        picks = order[start : start + batch_size]
        batch = tokenizer([phrases[pick] for pick in picks], padding=True, return_tensors="pt")
        mask = batch["attention_mask"].unsqueeze(-1).float()
        mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        result[picks] = torch.nn.functional.normalize(mean, dim=1).half().numpy()
        if start % (64 * batch_size) == 0:
            print(f"{start} of {len(phrases)} phrases", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    CLIP.mkdir(parents=True, exist_ok=True)
    groups = phrase_groups()
    print({name: len(group) for name, group in groups.items()}, flush=True)
    tokenizer = build_tokenizer(groups)
    tokenizer.save_pretrained(CLIP / "tokenizer")
    for style in STYLES.values():
        print(tokenizer.tokenize(f"a {style} emoji of a trophy"), flush=True)
    texts = [token.replace("</w>", "") for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    np.save(CLIP / "token-meanings.npy", meanings(texts))
    (CLIP / "phrases.json").write_text(json.dumps(groups))
    np.save(CLIP / "meanings.npy", meanings([phrase for group in groups.values() for phrase in group]))


if __name__ == "__main__":
    main()
