"""Blocks of a UNet and the choice made for each: plain data, no tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nas.errors import ArchitectureError
from nas.workload import Workload

SKIPPED = "0"
KEPT = "1"
_CHOICE = re.compile(r"\d+|[a-z][a-z0-9_-]*")
_GROUP = re.compile(r"(?P<stage>\w+(?:\.\d+)?)\.(?P<kind>resnet|attention)=(?P<choices>[^=\s]+)")


@dataclass(frozen=True, order=True)
class Block:
    """One removable unit of a UNet: a residual block or a whole spatial transformer.

    Its *signature* decides its latency, its *place* its value.

    Attributes:
        kind: "resnet" (`ResnetBlock2D`) or "attention" (`Transformer2DModel`).
        stage: "down.0", "mid", "up.2", ...
        index: position among the blocks of its kind in its stage.
        in_channels: channels it takes; for a ResNet of an up stage those of the skip connection included.
        out_channels: channels it gives.
        downsample: latent height divided by the block's height.
        parameters: number of weights, those of a `conv_shortcut` included.
        options: sorted (name, value) pairs, everything else that is needed to build the module.
    """

    kind: str
    stage: str
    index: int
    in_channels: int
    out_channels: int
    downsample: int
    parameters: int
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def place(self) -> str:
        """The block's name, unique in its network: "down.0.attention.1"."""
        return f"{self.stage}.{self.kind}.{self.index}"

    def __str__(self) -> str:
        return self.place

    def option(self, name: str) -> Any:
        """One of the block's options by name."""
        return dict(self.options)[name]

    @property
    def has_shortcut(self) -> bool:
        """Whether a 1x1 convolution stays behind when the block is skipped."""
        return self.kind == "resnet" and self.in_channels != self.out_channels

    def size(self, workload: Workload) -> tuple[int, int]:
        """Height and width of the block's feature map."""
        return -(-workload.height // self.downsample), -(-workload.width // self.downsample)

    def signature(self, workload: Workload, *, copy: bool = False) -> str:
        """What decides the block's latency; blocks with equal signatures share a row of a latency table.

        Args:
            workload: latent size and context length (batch and precision are the table's own).
            copy: the signature of a copy of the block, which takes what the block gives.
        """
        height, width = self.size(workload)
        if self.kind == "resnet":
            in_channels = self.out_channels if copy else self.in_channels
            return f"resnet {in_channels}->{self.out_channels} temb {self.option('temb_channels')} at {height}x{width}"
        options = dict(self.options)
        projection = "linear" if options["linear_projection"] else "conv"
        return (
            f"attention {self.out_channels} heads {options['heads']}x{options['head_dim']} depth {options['depth']} "
            f"{projection} context {workload.context_length}x{options['context_dim']} at {height}x{width}"
        )

    def shortcut_signature(self, workload: Workload) -> str | None:
        """The signature of the 1x1 convolution that a skipped ResNet leaves, or None where it leaves the identity."""
        if not self.has_shortcut:
            return None
        height, width = self.size(workload)
        return f"shortcut {self.in_channels}->{self.out_channels} at {height}x{width}"


@dataclass(frozen=True, order=True)
class Architecture:
    """An immutable choice for every place of a search space.

    A choice is a word: "0" nothing, "1" the block, "2" the block and one copy, and so on. Other words are left for
    further alternatives at a place.

    Attributes:
        choices: (place, choice) pairs in network order.
    """

    choices: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for place, choice in self.choices:
            if not _CHOICE.fullmatch(choice):
                raise ArchitectureError(f"the choice {choice!r} at {place} is neither a count nor a word")

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read what `str(architecture)` wrote.

        Raises:
            ArchitectureError: the text is not an architecture; the message quotes the part that is wrong.
        """
        choices: dict[str, str] = {}
        for part in text.split():
            match = _GROUP.fullmatch(part)
            if not match:
                raise ArchitectureError(f"cannot read {part!r} in an architecture; expected 'down.0.resnet=1,0'")
            for index, choice in enumerate(match["choices"].split(",")):
                place = f"{match['stage']}.{match['kind']}.{index}"
                if place in choices:
                    raise ArchitectureError(f"{place} stands twice in the architecture {text!r}")
                choices[place] = choice
        if not choices:
            raise ArchitectureError("the text of the architecture is empty")
        return cls(tuple(sorted(choices.items(), key=lambda item: network_order(item[0]))))

    def __str__(self) -> str:
        groups: dict[str, list[str]] = {}
        for place, choice in self.choices:
            groups.setdefault(place.rpartition(".")[0], []).append(choice)
        return " ".join(f"{group}={','.join(choices)}" for group, choices in groups.items())

    @property
    def places(self) -> tuple[str, ...]:
        """Every place, in network order."""
        return tuple(place for place, _ in self.choices)

    def items(self) -> Iterator[tuple[str, str]]:
        """(place, choice) pairs, in network order."""
        return iter(self.choices)

    def __getitem__(self, block: Block | str) -> str:
        place = str(block)
        for known, choice in self.choices:
            if known == place:
                return choice
        raise ArchitectureError(
            f"the architecture has no place {place!r}; it has {self.places[0]} to {self.places[-1]}"
        )

    def runs(self, block: Block | str) -> int:
        """How often the block runs, its copies included: 0 where it is skipped.

        Raises:
            ArchitectureError: no such place, or its choice is not a count.
        """
        choice = self[block]
        if not choice.isdigit():
            raise ArchitectureError(f"the choice at {block} is {choice!r}, which is not a number of runs")
        return int(choice)

    def with_choice(self, block: Block | str, choice: str) -> Architecture:
        """The same architecture with another choice at one place."""
        self[block]
        return Architecture(tuple((place, choice if place == str(block) else old) for place, old in self.choices))

    def remove(self, block: Block | str) -> Architecture:
        """One run fewer: a copy goes before the block itself.

        Raises:
            ArchitectureError: the block is not there any more.
        """
        runs = self.runs(block)
        if runs == 0:
            raise ArchitectureError(f"{block} is already removed")
        return self.with_choice(block, str(runs - 1))

    def duplicate(self, block: Block | str) -> Architecture:
        """One run more, by a copy of the block.

        Raises:
            ArchitectureError: the block is removed, so there is nothing to copy.
        """
        runs = self.runs(block)
        if runs == 0:
            raise ArchitectureError(f"{block} is removed and cannot be duplicated; choose {KEPT!r} for it first")
        return self.with_choice(block, str(runs + 1))

    @property
    def removed(self) -> tuple[str, ...]:
        """The places where nothing runs."""
        return tuple(place for place, choice in self.choices if choice == SKIPPED)

    @property
    def added(self) -> tuple[str, ...]:
        """The places with copies, each as often as it has copies."""
        return tuple(p for p, choice in self.choices if choice.isdigit() for _ in range(int(choice) - 1))

    def counts(self) -> dict[tuple[str, str], int]:
        """(stage, kind) -> number of runs, the form of the paper's Table 3."""
        counts: Counter[tuple[str, str]] = Counter()
        for place, choice in self.choices:
            stage, kind, _ = place.rsplit(".", 2)
            counts[stage, kind] += int(choice) if choice.isdigit() else 1
        return dict(counts)


def network_order(place: str) -> tuple[int, int, int, int]:
    """A sort key that puts places in the order in which a UNet runs them."""
    stage, kind, index = place.rsplit(".", 2)
    side, _, number = stage.partition(".")
    # Inside a stage ResNets and attention alternate, the ResNet first.
    return {"down": 0, "mid": 1, "up": 2}.get(side, 3), int(number or 0), int(index), int(kind == "attention")
