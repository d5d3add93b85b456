"""A recipe on the tiny pipeline that does everything once and as little as possible, with made-up times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest_pipeline import CONTEXT_LENGTH
from PIL import Image
from small_compression import Compress, compress_a_little, make_up_times
from tables import table_of, with_few_choices

from nas import LatencyTable, SearchSpace
from nas.compression import Compression


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are too small to share out; on a busy machine threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def known_times() -> Iterator[pytest.MonkeyPatch]:
    """Nothing is timed."""
    with pytest.MonkeyPatch.context() as patch:
        make_up_times(patch)
        yield patch


@pytest.fixture(scope="session")
def table(tiny_space: SearchSpace) -> LatencyTable:
    return table_of(replace(with_few_choices(tiny_space), context_length=CONTEXT_LENGTH))


@pytest.fixture(scope="session")
def single_table(tiny_space: SearchSpace) -> LatencyTable:
    """For one sample a run."""
    return table_of(replace(with_few_choices(tiny_space), context_length=CONTEXT_LENGTH), batch_size=1)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, picture in enumerate(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def compress(tiny_pipeline_dir: Path, table: LatencyTable, photos: Path) -> Compress:
    """`nas.compress` with everything filled in that a test does not say."""

    def run(out: Path, **changes: Any) -> Compression:
        options = {"pipeline": tiny_pipeline_dir, "lut": table, **changes}
        return compress_a_little(out, photos, **options)

    return run


@pytest.fixture(scope="module")
def whole(compress: Compress, tmp_path_factory: pytest.TempPathFactory) -> Compression:
    """The recipe with every stage, run once; do not write into its folder."""
    return compress(tmp_path_factory.mktemp("whole") / "run")
