"""The recipe killed at many points and started again; run as a script, prints how often it was started.

Where every stage ends, and what it trains, is the tiny recipe's of the other tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.autoencoders.vae import Decoder
from killing import starts_until_done
from small_compression import compress_a_little, make_up_times

from nas import LatencyTable


def main(pipeline: str, table: str, photos: str, out: str, passes: str) -> None:
    def run() -> None:
        torch.set_num_threads(1)
        with pytest.MonkeyPatch.context() as patch:
            make_up_times(patch)
            lut = LatencyTable.load(table)
            compress_a_little(Path(out), Path(photos), pipeline=pipeline, lut=lut, evaluation=False)

    print(starts_until_done(run, int(passes), (UNet2DConditionModel, Decoder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
