"""A network, data and trainings small enough for tests; as a program, the trainings in processes of their own.

python tests/small_training.py scenarios FOLDER                    write what each training gives, one file a process
python tests/small_training.py endless CHECKPOINT SCENARIO STEPS   train, with a checkpoint at every step
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from nas import SearchSpace, Supernet
from nas.supernet import sandwich
from nas.training import TrainingData, TrainingLog, distil_steps, robust_train

CONFIG = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 8),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
# Here and not from the pipeline's fixtures, whose imports take a process seconds.
SCHEDULER = DDIMScheduler(
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    clip_sample=False,
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
)
SCENARIOS = ("robust", "sandwich", "steps", "folded")


def make_space() -> SearchSpace:
    return SearchSpace.from_config(CONFIG, name="small", context_length=5)


def make_unet(**changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**CONFIG, **changes).eval()


def make_teacher() -> UNet2DConditionModel:
    teacher = make_unet()
    with torch.no_grad():
        teacher.conv_out.weight.mul_(1.5)
    return teacher


def make_data() -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    shapes = ((10, 4, 8, 8), (10, 5, 12), (1, 5, 12))
    return TrainingData(*(torch.randn(shape, generator=generator) for shape in shapes))


def run(
    scenario: str, *, change: Callable[[Any], Any] = lambda network: network, **options: Any
) -> tuple[TrainingLog, torch.nn.Module]:
    """One of the trainings; batches of five, which no number of processes divides. `change` is done to its networks."""
    options = {"steps": 3, "batch_size": 5, "learning_rate": 1e-3, "scheduler": SCHEDULER, **options}
    teacher, data = change(make_teacher()), make_data()
    if scenario in ("robust", "sandwich"):
        skip = 0.3 if scenario == "robust" else sandwich(0.3, draws=1)
        network = Supernet(change(make_unet()), make_space(), skip_probability=skip, seed=5)
        weights = {"data_weight": 0.3, "feature_weight": 0.5} if scenario == "robust" else {}
        return robust_train(network, teacher, data, ema_decay=0.5, **weights, **options), network
    network = change(make_unet(**({"time_cond_proj_dim": 8} if scenario == "folded" else {})))
    return distil_steps(network, teacher, data, student_steps=4, guided_share=0.5, **options), network


def _scenarios(folder: Path) -> None:
    from accelerate import Accelerator

    import nas.training._run as state

    accelerator = Accelerator(cpu=True)
    written, save = [], state.save_checkpoint
    state.save_checkpoint = lambda path, values: (written.append(str(path)), save(path, values))
    found = {"processes": accelerator.num_processes, "written": written}
    for scenario in SCENARIOS:
        log, network = run(scenario, accelerator=accelerator)
        found[scenario] = {"losses": log.losses, "parts": log.parts, "weights": copy.deepcopy(network.state_dict())}
    path = folder / "run.pt"
    run("robust", accelerator=accelerator, steps=2, checkpoint=path)
    log, network = run("robust", accelerator=accelerator, checkpoint=path)
    found["resumed"] = {"losses": log.losses, "weights": network.state_dict()}
    torch.save(found, folder / f"process_{accelerator.process_index}.pt")
    accelerator.end_training()


def main() -> None:
    command, path, *rest = sys.argv[1:]
    if command == "scenarios":
        _scenarios(Path(path))
    else:
        run(rest[0], steps=int(rest[1]), checkpoint=path, every=1)


if __name__ == "__main__":
    main()
