"""Loading diffusers pipelines and UNets from folders: offline, safetensors only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import DeviceError, ModelError
from nas.resources import bundled

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, UNet2DConditionModel


def load_pipeline(
    path: str | os.PathLike[str] | None = None,
    *,
    unet: str | os.PathLike[str] | None = None,
    compute_on: str | None = None,
) -> DiffusionPipeline:
    """Load a text-to-image pipeline from a folder; nothing is looked up on a network and no pickle is opened.

    All its networks are in float32 then, whatever the files hold: what was saved in half precision is trained and
    judged as any other. Of a folder that has weights of the variant "fp16" only, those are taken.

    Args:
        path: a folder with a `model_index.json`; the bundled pipeline when not given.
        unet: the folder of a UNet, stock or evolved, to put in place of the pipeline's own.
        compute_on: "cuda", "mps" or another device of torch; the CPU when None.

    Raises:
        DeviceError: torch does not have that device here.
        ModelError: the folder is missing, incomplete or damaged.
    """
    import torch
    from diffusers import DiffusionPipeline

    # diffusers finds the class of an evolved UNet, or of a slim autoencoder, inside a saved pipeline only where its
    # module is imported already.
    import nas.decoder
    import nas.supernet  # noqa: F401

    folder = bundled("emoji") if path is None else Path(path)
    _require(folder, "model_index.json", "pipeline")
    parts = {} if unet is None else {"unet": load_unet(unet)}
    try:
        options = {"local_files_only": True, "use_safetensors": True, **_variant(folder / "unet"), **parts}
        pipe = DiffusionPipeline.from_pretrained(folder, **options)
    except Exception as error:
        raise _damaged(folder, "pipeline", error) from error
    # diffusers does so itself and transformers does not; a mixture cannot be sampled.
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe if compute_on is None else moved(pipe, compute_on)


def moved(part: Any, device: str) -> Any:
    """Move a pipeline or a network to another device of torch, and give it back.

    Raises:
        DeviceError: torch does not have that device here.
    """
    try:
        return part.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DeviceError(f"cannot compute on {device!r}: {reason}") from error


def load_unet(path: str | os.PathLike[str]) -> UNet2DConditionModel:
    """Load a UNet from a folder: an `EvolvedUNet` where its config says so, else a stock one.

    Raises:
        ModelError: the folder is missing, incomplete or damaged.
    """
    from diffusers import UNet2DConditionModel

    from nas.supernet import EvolvedUNet

    folder = Path(path)
    _require(folder, "config.json", "UNet")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = EvolvedUNet if config.get("_class_name") == "EvolvedUNet" else UNet2DConditionModel
    except (OSError, ValueError, AttributeError) as error:
        raise _damaged(folder, "UNet", error) from error
    return load_part(kind, folder, "UNet", use_safetensors=True, **_variant(folder)).eval()


def load_part(kind: Any, path: str | os.PathLike[str], what: str, *, file: str = "config.json", **options: Any) -> Any:
    """Load a part of a pipeline from a folder of its own.

    Args:
        kind: a class of diffusers or one like it.
        path: the folder.
        what: what people call it.
        file: which the folder must have.
        **options: of `kind.from_pretrained`.

    Raises:
        ModelError: the folder is missing, incomplete or damaged.
    """
    folder = Path(path)
    _require(folder, file, what)
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:
        raise _damaged(folder, what, error) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the loading bars and hints of diffusers and transformers out of a command's output, and restore them."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = of_diffusers, of_transformers
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            (library.enable_progress_bar if bars else library.disable_progress_bar)()


def _variant(folder: Path) -> dict[str, str]:
    """For `from_pretrained`: that the weights in a folder are of the variant "fp16", if they are that only."""
    names = [file.name for file in folder.glob("*.safetensors")]
    return {"variant": "fp16"} if names and all(".fp16." in name for name in names) else {}


def _require(folder: Path, file: str, what: str) -> None:
    if not folder.is_dir():
        raise ModelError(f"no {what} at {folder}: there is no such folder")
    if not (folder / file).is_file():
        raise ModelError(f"no {what} at {folder}: the folder has no {file}")


def _damaged(folder: Path, what: str, error: Exception) -> ModelError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ModelError(f"the {what} at {folder} is incomplete or damaged: {reason[:200]}")
