"""CLIP as a judge: pictures and texts to unit vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel
from transformers.image_processing_base import ImageProcessingMixin

from nas._fingerprint import fingerprint_of_modules, fingerprint_of_texts
from nas.errors import ModelError
from nas.pipelines import moved
from nas.quality._image_preparation import ImagePreparation
from nas.sampling import placement, truncated_prompts

# Tokenizers that differ give it different tokens, as far as a text can show it.
_PROBE = "A photo of 3 cats, one café and an astronaut's horse; UPPER & lower!"


class Clip:
    """A `transformers.CLIPModel` with its tokenizer and image preparation.

    Args:
        model: any `CLIPModel`.
        tokenizer: its tokenizer.
        preparation: from pictures to its pixel values; the original CLIP's when None.
        name: what to call it in messages.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: Any, preparation: ImagePreparation | None = None, *, name: str = "CLIP"
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.preparation = preparation or ImagePreparation.square(model.config.vision_config.image_size)
        self.name = name
        self._require_sizes_to_fit()
        # Some tokenizers do not know their own limit.
        self.max_length = min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Clip:
        """Read a folder with a `CLIPModel`, its tokenizer and image processor, or a model of the Hugging Face cache.

        Nothing is downloaded.

        Raises:
            ModelError: it is missing, incomplete or corrupt.
        """
        try:
            model, report = CLIPModel.from_pretrained(source, local_files_only=True, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
            config, _ = ImageProcessingMixin.get_image_processor_dict(source, local_files_only=True)
        except Exception as error:  # transformers, safetensors and tokenizers raise a dozen kinds here
            raise ModelError(
                f"cannot read a CLIP model with its tokenizer and image processor from {str(source)!r} "
                f"({_first_line(error)}); give a folder that CLIPModel.from_pretrained loads"
            ) from error
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise ModelError(f"the CLIP model in {str(source)!r} lacks {len(missing)} weights, such as {missing[0]}")
        return cls(model, tokenizer, ImagePreparation.from_config(config), name=str(source))

    def _require_sizes_to_fit(self) -> None:
        wanted, given = self.model.config.vision_config.image_size, self.preparation.crop
        if given is not None and given != (wanted, wanted):
            raise ModelError(
                f"{self.name} looks at {wanted}x{wanted} pixels, but its image processor gives {given[0]}x{given[1]}; "
                "correct its preprocessor_config.json"
            )

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        """For each prompt, whether CLIP sees only its beginning."""
        return truncated_prompts(self.tokenizer, prompts, length=self.max_length)

    @torch.no_grad()
    def embed_texts(self, prompts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """Unit vectors `[n x p]`, the `text_embeds` of `CLIPModel`."""
        parts = [self._embed_texts(list(prompts[at : at + batch_size])) for at in range(0, len(prompts), batch_size)]
        return torch.cat(parts)

    def _embed_texts(self, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        pooled = self.model.text_model(input_ids=tokens.input_ids.to(self.device)).pooler_output
        return functional.normalize(self.model.text_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors `[b x p]` of pictures `[b x 3 x h x w]` from 0 to 1, the `image_embeds` of `CLIPModel`."""
        pixels = self.preparation(images.to(self.device).float()).to(self.model.dtype)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return functional.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    def fingerprint(self) -> str:
        """16 hex digits that change with its weights and activations, its tokenizer and the preparation of pictures."""
        tokens, config = self.tokenizer([_PROBE], verbose=False).input_ids[0], self.model.config
        activations = config.text_config.hidden_act, config.vision_config.hidden_act
        parts = fingerprint_of_modules(self.model), activations, self.preparation, self.max_length, tokens
        return fingerprint_of_texts(map(str, parts))


def find_clip(
    clip: Clip | CLIPModel | str | os.PathLike[str] | None, pipe: Any, *, compute_on: str | None = None
) -> Clip:
    """The judge that the caller means: None is the folder `clip` inside the pipeline's own.

    What is read from a folder is put on `compute_on`, or where the pipeline's UNet lies.

    Raises:
        DeviceError: torch does not have that device here.
        ModelError: there is none, or it is corrupt.
    """
    if isinstance(clip, Clip):
        return clip
    if isinstance(clip, CLIPModel):
        return _with_its_tokenizer(clip, pipe)
    found = Clip.load(_clip_of(pipe) if clip is None else clip)
    moved(found.model, compute_on or str(placement(pipe.unet)[0]))
    return found


def _clip_of(pipe: Any) -> Path:
    home = getattr(pipe, "name_or_path", None)
    if not home:
        raise ModelError(
            "the pipeline was not read from a folder, where a CLIP model could be; give one with clip=FOLDER"
        )
    folder = Path(home) / "clip"
    if not (folder / "config.json").is_file():
        raise ModelError(f"there is no CLIP model at {folder}; say where one is with clip=FOLDER")
    return folder


def _with_its_tokenizer(model: CLIPModel, pipe: Any) -> Clip:
    # A model that was read from a folder has its tokenizer there; one made in memory shares the pipeline's.
    if model.name_or_path and (Path(model.name_or_path) / "tokenizer_config.json").is_file():
        known = Clip.load(model.name_or_path)
        return Clip(model, known.tokenizer, known.preparation, name=known.name)
    vocabulary = model.config.text_config.vocab_size
    if len(pipe.tokenizer) > vocabulary:
        raise ModelError(
            f"the CLIP model knows {vocabulary} tokens and the pipeline's tokenizer has {len(pipe.tokenizer)}; "
            "give the folder that holds the model with its own tokenizer"
        )
    return Clip(model, pipe.tokenizer)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
