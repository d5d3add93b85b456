"""A search that is killed at many points and started again; run as a script, prints what came of it as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from killing import starts_until_done

import nas
from nas.quality import TeacherDistance
from nas.training import TrainingData

CONFIG = {
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (4, 8),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 6,
    "attention_head_dim": 2,
    "norm_num_groups": 2,
}
STEPS = {"train_steps": 2, "probe_steps": 1, "final_steps": 2}


class Table:
    """1 ms a block."""

    base_ms = 1.0

    def latency_ms(self, architecture: nas.Architecture) -> float:
        return self.base_ms + sum(architecture.runs(place) for place in architecture.places)


def search(workdir: Path) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**CONFIG).eval()
    space = nas.SearchSpace.from_unet(unet, name="killed", context_length=3)
    generator = torch.Generator().manual_seed(1)
    latents, contexts = (torch.randn(4, *shape, generator=generator) for shape in ((4, 4, 4), (3, 6)))
    data = TrainingData(latents, contexts, torch.zeros(1, 3, 6))
    supernet, lut = nas.Supernet(unet, space, seed=5), Table()
    result = nas.evolve(
        supernet,
        lut,
        budget_ms=lut.latency_ms(space.full) - 2,
        scorer=TeacherDistance(unet, latents, contexts),
        workdir=workdir,
        data=data,
        scheduler=DDIMScheduler(),
        training={"batch_size": 2, "every": 1},
        group_size=1,
        candidates=2,
        max_rounds=4,
        measure=False,
        **STEPS,
    )
    return {
        "history": result.history.drop(columns=["seconds"]).to_csv(index=False),
        "architecture": str(result.architecture),
        "weights": {name: tensor.double().sum().item() for name, tensor in result.unet.state_dict().items()},
        "score": result.score.mean,
    }


def main(folder: Path, passes: int) -> None:
    starts = starts_until_done(lambda: search(folder / "killed"), passes, UNet2DConditionModel)
    outcome = {"starts": starts, "pieces": search(folder / "killed"), "whole": search(folder / "whole")}
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
