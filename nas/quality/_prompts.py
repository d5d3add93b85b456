"""The captions that travel with a bundled pipeline, split by concept: what the search sees, and what reports see."""

from __future__ import annotations

import json
import random

from nas.errors import ModelError
from nas.resources import bundled
from nas.sampling import require_whole_number


def load_captions(
    name: str = "emoji",
    split: str = "validation",
    *,
    count: int | None = None,
    seed: int = 0,
    drawn_only: bool = False,
) -> list[str]:
    """Captions of a bundled pipeline.

    Args:
        name: the pipeline.
        split: "train", "validation" (for searching) or "test" (for reporting, and nothing else).
        count: how many, drawn at random without repetition; all of them in the file's order when None. A larger draw
            with the same seed begins with the smaller one.
        seed: of the draw.
        drawn_only: leave out captions whose pictures the bundled UNet was not trained on. Held-out splits are such
            throughout: nothing would be left of them.

    Returns:
        The captions.

    Raises:
        ModelError: there is no such pipeline or split, or the file is corrupt.
    """
    path = bundled(name) / "captions" / f"{split}.json"
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.json"))
        raise ModelError(f"pipeline {name!r} has no captions called {split!r}; there is {', '.join(known) or 'none'}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        captions = [str(entry["caption"]) for entry in entries if not drawn_only or entry.get("drawn", False)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a list of captions ({error!r}); install the package again") from error
    if count is None:
        return captions
    random.Random(seed).shuffle(captions)
    return captions[: require_whole_number("count", count)]
