"""Which blocks of a UNet exist, which may go, and how often each may be copied. Stored as YAML."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nas._files import write_text_atomically
from nas.architecture import KEPT, SKIPPED, Architecture, Block
from nas.errors import ArchitectureError, SearchSpaceError
from nas.resources import search_spaces_dir

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True)
class SearchSpace:
    """All architectures that a UNet can be turned into.

    Attributes:
        name: how tables and files refer to it.
        config: the UNet's diffusers config.
        blocks: every ResNet and every spatial transformer, in network order.
        parameters: number of weights of the full network.
        context_length: tokens of the text, for which latencies are measured unless told otherwise.
        max_copies: how often each block may be copied.
        fixed: places that may not be removed.
    """

    name: str
    config: Mapping[str, Any] = field(hash=False)
    blocks: tuple[Block, ...]
    parameters: int
    context_length: int = 77
    max_copies: int = 1
    fixed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        places = [block.place for block in self.blocks]
        if not places:
            raise SearchSpaceError(f"the search space {self.name!r} has no blocks")
        if len(set(places)) < len(places):
            raise SearchSpaceError(f"the search space {self.name!r} names a place twice")
        if unknown := self.fixed - set(places):
            raise SearchSpaceError(
                f"the search space {self.name!r} fixes {min(unknown)!r}, which is none of its places"
            )

    # Where a space comes from.

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        *,
        name: str | None = None,
        context_length: int = 77,
        max_copies: int = 1,
        fixed: frozenset[str] = frozenset(),
    ) -> SearchSpace:
        """Derive the space of any diffusers `UNet2DConditionModel`; see `from_config`."""
        return cls.from_config(
            unet.config, name=name, context_length=context_length, max_copies=max_copies, fixed=fixed
        )

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        name: str | None = None,
        context_length: int = 77,
        max_copies: int = 1,
        fixed: frozenset[str] = frozenset(),
    ) -> SearchSpace:
        """Derive the space from a UNet's config alone; no weights are made.

        Raises:
            SearchSpaceError: no `UNet2DConditionModel` can be built from the config, or it has blocks of a kind that
                cannot be skipped. No block is ever left out silently.
        """
        from nas._derive import describe_unet

        config, blocks, parameters = describe_unet(config)
        config = {key: _plain(value) for key, value in config.items()}
        return cls(name or "custom", config, blocks, parameters, context_length, max_copies, frozenset(fixed))

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> SearchSpace:
        """Read a bundled space ("sd15", "sd21", "sdxl", "emoji") or a YAML file.

        Raises:
            SearchSpaceError: there is no such space, or the file is damaged.
        """
        path = search_spaces_dir() / f"{name_or_path}.yaml"
        if not path.is_file():
            path = Path(name_or_path)
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in search_spaces_dir().glob("*.yaml")))
            raise SearchSpaceError(f"no search space {str(name_or_path)!r}: give a YAML file or one of {known}")
        try:
            return cls.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SearchSpaceError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
        except SearchSpaceError as error:
            raise SearchSpaceError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the space as YAML."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, default_flow_style=None, width=160)
        write_text_atomically(path, text)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for YAML and JSON."""
        return {
            "name": self.name,
            "context_length": self.context_length,
            "max_copies": self.max_copies,
            "fixed": sorted(self.fixed),
            "parameters": self.parameters,
            "config": dict(self.config),
            "blocks": [_block_to_dict(block) for block in self.blocks],
        }

    @classmethod
    def from_dict(cls, data: Any) -> SearchSpace:
        """The inverse of `to_dict`.

        Raises:
            SearchSpaceError: a field is missing, unknown or of the wrong kind.
        """
        if not isinstance(data, dict):
            raise SearchSpaceError("a search space must be a mapping of fields")
        names = {entry.name for entry in fields(cls)}
        if wrong := (names ^ set(data)):
            verb = "is missing" if min(wrong) in names else "is unknown"
            raise SearchSpaceError(f"the field {min(wrong)!r} {verb} in the search space")
        try:
            blocks = tuple(_block_from_dict(row) for row in data["blocks"])
            return cls(**{**data, "blocks": blocks, "fixed": frozenset(data["fixed"])})
        except (TypeError, KeyError, AttributeError) as error:
            raise SearchSpaceError(f"the search space is damaged: {error}") from error

    # What is in it.

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents that the UNet was made for (64x64 where its config does not say)."""
        size = self.config.get("sample_size") or 64
        height, width = (size, size) if isinstance(size, int) else size
        return height, width

    @property
    def full(self) -> Architecture:
        """The network as it is: every block once."""
        return Architecture(tuple((block.place, KEPT) for block in self.blocks))

    @property
    def empty(self) -> Architecture:
        """Every block skipped that may be."""
        return Architecture(tuple((b.place, KEPT if b.place in self.fixed else SKIPPED) for b in self.blocks))

    def block(self, place: str) -> Block:
        """The block at a place.

        Raises:
            ArchitectureError: no such place.
        """
        for block in self.blocks:
            if block.place == place:
                return block
        raise ArchitectureError(f"the search space {self.name!r} has no place {place!r}")

    def sample(self, rng: random.Random, *, keep: float | None = None) -> Architecture:
        """A random architecture without copies.

        Args:
            rng: where the randomness comes from.
            keep: probability with which each block stays; drawn from [0.2, 1] when not given, so that the sizes spread.
        """
        keep = rng.uniform(0.2, 1.0) if keep is None else keep
        choices = []
        for block in self.blocks:
            stays = rng.random() < keep or block.place in self.fixed
            choices.append((block.place, KEPT if stays else SKIPPED))
        return Architecture(tuple(choices))

    def parameters_of(self, architecture: Architecture) -> int:
        """Number of weights of a network: of the blocks that run, their copies, and all that is not removable."""
        total = self.parameters
        for block in self.blocks:
            runs = architecture.runs(block)
            if runs == 0:
                total -= block.parameters - _parameters_of_shortcut(block)
            total += max(runs - 1, 0) * _parameters_of_copy(block)
        return total

    def check(self, architecture: Architecture) -> None:
        """Refuse an architecture that is not of this space.

        Raises:
            ArchitectureError: other places, a removed block that is fixed, or more copies than allowed.
        """
        expected = tuple(block.place for block in self.blocks)
        if architecture.places != expected:
            odd = sorted(set(architecture.places) ^ set(expected)) or ["the order of places"]
            raise ArchitectureError(
                f"the architecture is not of the search space {self.name!r}: they differ in {odd[0]}"
            )
        for place, _ in architecture.items():
            runs = architecture.runs(place)
            if runs == 0 and place in self.fixed:
                raise ArchitectureError(f"{place} is fixed in the search space {self.name!r} and cannot be removed")
            if runs > 1 + self.max_copies:
                raise ArchitectureError(f"{place} has {runs - 1} copies; the search space allows {self.max_copies}")

    def removable(self, architecture: Architecture) -> tuple[Block, ...]:
        """The blocks of which one run can be taken away."""
        least = {block.place: int(block.place in self.fixed) for block in self.blocks}
        return tuple(block for block in self.blocks if architecture.runs(block) > least[block.place])

    def duplicable(self, architecture: Architecture) -> tuple[Block, ...]:
        """The blocks that are there and may have one copy more."""
        return tuple(block for block in self.blocks if 1 <= architecture.runs(block) <= self.max_copies)


# Of a block, the numbers with the least that each may be; by kind, the options that its signature is made of.
_NUMBERS = {"index": 0, "in_channels": 1, "out_channels": 1, "downsample": 1, "parameters": 1}
_OPTIONS = {
    "resnet": ("temb_channels",),
    "attention": ("heads", "head_dim", "depth", "linear_projection", "context_dim"),
}


def _parameters_of_shortcut(block: Block) -> int:
    return (block.in_channels + 1) * block.out_channels if block.has_shortcut else 0


def _parameters_of_copy(block: Block) -> int:
    # A copy of a ResNet maps out -> out channels: a smaller norm and 3x3 convolution, and no shortcut.
    narrower = block.in_channels - block.out_channels if block.has_shortcut else 0
    return block.parameters - _parameters_of_shortcut(block) - narrower * (2 + 9 * block.out_channels)


def _block_to_dict(block: Block) -> dict[str, Any]:
    plain = {entry.name: getattr(block, entry.name) for entry in fields(Block)}
    return {**plain, "options": {name: _plain(value) for name, value in block.options}}


def _block_from_dict(row: Mapping[str, Any]) -> Block:
    block = Block(**{**row, "options": tuple(sorted(row["options"].items()))})
    if block.kind not in _OPTIONS:
        raise TypeError(f"{block.place} is of kind {block.kind!r}, and there are {', '.join(_OPTIONS)} only")
    for name, least in _NUMBERS.items():
        value = getattr(block, name)
        if type(value) is not int or value < least:
            raise TypeError(f"{name} of {block.place} is {value!r}; it must be a whole number of at least {least}")
    for name in _OPTIONS[block.kind]:
        if name not in dict(block.options):
            raise KeyError(f"{block.place} has no option {name}")
    return block


def _plain(value: Any) -> Any:
    """Tuples to lists, as YAML gives them back."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
