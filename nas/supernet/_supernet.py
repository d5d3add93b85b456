"""The UNet with every block skippable."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import nn

from nas._fingerprint import fingerprint_of_texts
from nas.architecture import Architecture, Block
from nas.errors import ModelError
from nas.search_space import SearchSpace
from nas.supernet._evolved import EvolvedUNet, as_evolved
from nas.supernet._schedules import Probabilities, Schedule, as_schedule, probabilities_at
from nas.unet import (
    COPY_INITS,
    block_of,
    check_unet,
    make_copy,
    module_for,
    own_structure,
    require_unet,
    share_structure,
    slot_of,
)


class Supernet(nn.Module):
    """A UNet that runs any architecture of its search space and trains with stochastic paths.

    In `train()` every forward pass draws a path: each block that `current` still has is skipped with its skip
    probability, independently of the others (Algorithm 1 of https://arxiv.org/abs/2306.00980). In `eval()` it runs
    `current`. A skipped block is replaced for the time of the pass, so it does no work, and with nothing skipped the
    very modules of the UNet run: outputs are bit-identical.

    The weights are the UNet's own, not copies: training the supernet trains the UNet that was given. Move the UNet to
    its device first. Its structure and mode are left as they are.

    Args:
        unet: any `UNet2DConditionModel` whose blocks can be skipped.
        space: its search space; derived from it when not given.
        skip_probability: one number for all blocks; a table {place: number}, where places left out are never skipped;
            or a schedule, a function from the step to either (`nas.supernet.ramp`, `nas.supernet.by_depth`) or to a
            sequence of them, one for each path of a step (`nas.supernet.sandwich`).
        seed: decides the paths: the path of a step depends on the seed and the step alone.
        duplicate_init: how copies of blocks start: "identity" preserves the function, "plain" is the paper's.

    Attributes:
        unet: the full UNet, of the same `Parameter` objects as the one that was given.
        current: the architecture that `eval()` runs and of which `train()` skips blocks; changed by `move_to`.
        last_path: the architecture that the last forward pass ran.
        step: how many paths have been drawn.

    Raises:
        ModelError: `unet` is not a `UNet2DConditionModel`, or an unknown `duplicate_init`.
        SearchSpaceError: `space` is of another UNet, or a skip probability is none.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        space: SearchSpace | None = None,
        *,
        skip_probability: Probabilities | Schedule = 0.1,
        seed: int = 0,
        duplicate_init: str = "identity",
    ) -> None:
        super().__init__()
        require_unet(unet)
        self.space = SearchSpace.from_unet(unet) if space is None else space
        check_unet(unet, self.space)
        if duplicate_init not in COPY_INITS:
            raise ModelError(f"duplicate_init is {duplicate_init!r}; choose one of {', '.join(COPY_INITS)}")
        self.unet = share_structure(unet)
        self.copies = nn.ModuleDict()
        self.skip_schedule = as_schedule(skip_probability)
        self.seed = seed
        self.duplicate_init = duplicate_init
        self.step = 0
        self.current = self.space.full
        self.last_path: Architecture | None = None
        probabilities_at(self.skip_schedule, 0, self.space)

    # Running.

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        architecture: Architecture | None = None,
        **unet_kwargs: Any,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """The UNet's forward for one architecture.

        Args:
            sample: noisy latents [b x c x h x w].
            timestep: one number or [b].
            encoder_hidden_states: text states [b x l x d].
            architecture: what to run; when not given a drawn path in `train()`, `current` in `eval()`. Copies that
                `current` does not have are made for this pass alone; `move_to` makes them stay.
            **unet_kwargs: everything else that `UNet2DConditionModel.forward` takes.

        Returns:
            What the UNet returns.

        Raises:
            ArchitectureError: the architecture is of another space.
        """
        if architecture is None:
            architecture = self.draw_path() if self.training else self.current
        with self._running(architecture):
            self.last_path = architecture
            return self.unet(sample, timestep, encoder_hidden_states, **unet_kwargs)

    def draw_path(self) -> Architecture:
        """Draw the next path: `current`, of which blocks and copies are skipped at random; advances `step`.

        A block that is skipped takes its copies with it; of a block that stays each copy is skipped on its own. Where
        the schedule asks for several paths a step, this gives one of them, the next one with every step.
        """
        step, paths = self.step, self.draw_paths()
        return paths[step % len(paths)]

    def draw_paths(self) -> list[Architecture]:
        """Draw all paths of the next training step, one unless the schedule asks for several; advances `step`."""
        tables = probabilities_at(self.skip_schedule, self.step, self.space)
        paths = [self._draw(probabilities, index) for index, probabilities in enumerate(tables)]
        self.step += 1
        return paths

    def fingerprint_of_paths(self) -> str:
        """16 hex digits that change with the seed and with the skip probabilities, a schedule's by its first steps."""
        tables = [probabilities_at(self.skip_schedule, step, self.space) for step in (0, 1)]
        return fingerprint_of_texts(map(str, (self.seed, *tables)))

    def _draw(self, probabilities: dict[str, float], index: int) -> Architecture:
        # A generator for each path, not one for all: where a run stands is two numbers, and resuming is exact.
        rng = random.Random(f"{self.seed}/{self.step}" + (f"/{index}" if index else ""))
        choices = []
        for place, _ in self.current.items():
            runs, skip = self.current.runs(place), probabilities[place]
            kept = [rng.random() >= skip for _ in range(runs)]
            choices.append((place, str(sum(kept) if kept and kept[0] else 0)))
        return Architecture(tuple(choices))

    @contextmanager
    def _running(self, architecture: Architecture) -> Iterator[None]:
        """Put the architecture's modules in their places, and the blocks back afterwards.

        Swapping is a matter of microseconds and keeps the tree that the rest of the world sees (state dict, adapters,
        attention processors) that of the UNet. Checkpointed blocks hold on to the module that ran, so recomputing them
        in a later backward pass does not depend on the path of that time.
        """
        self.space.check(architecture)
        changed = []
        try:
            for block in self.space.blocks:
                if (runs := architecture.runs(block)) == 1:
                    continue
                modules, index = slot_of(self.unet, block)
                changed.append((modules, index, modules[index]))
                modules[index] = module_for(block, modules[index], runs, self._copies_of(block, runs - 1))
            yield
        finally:
            for modules, index, module in changed:
                modules[index] = module

    def _copies_of(self, block: Block, count: int) -> list[nn.Module]:
        """The first `count` copies; those that `current` does not have are made anew, for this time only."""
        kept = list(self.copies[_key(block)])[:count] if _key(block) in self.copies else []
        return kept + [self._new_copy(block) for _ in range(count - len(kept))]

    def _new_copy(self, block: Block) -> nn.Module:
        return make_copy(block, block_of(self.unet, block), init=self.duplicate_init)

    # Moving through the space.

    def move_to(self, architecture: Architecture) -> None:
        """Make an architecture the current one.

        Copies that it adds get parameters here (tell the optimizer); those that it lacks are dropped. Removed blocks
        keep their weights, so moving back restores them.

        Raises:
            ArchitectureError: the architecture is of another space.
        """
        self.space.check(architecture)
        for block in self.space.blocks:
            copies = self._copies_of(block, architecture.runs(block) - 1)
            self.copies.pop(_key(block)) if _key(block) in self.copies else None
            if copies:
                self.copies[_key(block)] = nn.ModuleList(copies)
        self.current = architecture

    def candidate(self, architecture: Architecture) -> EvolvedUNet:
        """The architecture as a network over the supernet's own weights: no tensor is copied.

        Training it trains the supernet. Only copies of blocks that `current` does not have get weights of their own.
        It is in eval mode.

        Raises:
            ArchitectureError: the architecture is of another space.
        """
        return self._take(architecture, share_structure)

    def extract(self, architecture: Architecture | None = None) -> EvolvedUNet:
        """The architecture (`current` when not given) as an independent network that holds only the weights it uses.

        It is in eval mode.

        Raises:
            ArchitectureError: the architecture is of another space.
        """
        return self._take(self.current if architecture is None else architecture, own_structure)

    def _take(self, architecture: Architecture, copy_tree: Callable[..., EvolvedUNet]) -> EvolvedUNet:
        # Copied while it is in place: what is taken out is by construction what runs inside.
        with self._running(architecture):
            return as_evolved(copy_tree(self.unet, cls=EvolvedUNet), architecture, self.space)

    # State.

    def get_extra_state(self) -> torch.Tensor:
        """Where the supernet stands, as a tensor of bytes, so that safetensors and `weights_only` loading take it."""
        state = {"current": str(self.current), "seed": self.seed, "step": self.step}
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """The inverse of `get_extra_state`; makes room for the copies whose weights are loaded next."""
        try:
            values = json.loads(bytes(state.tolist()))
            current, seed, step = Architecture.parse(values["current"]), int(values["seed"]), int(values["step"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError("the state of the supernet is damaged; load another checkpoint") from error
        self.move_to(current)
        self.seed, self.step = seed, step

    # What pipelines ask a UNet for.

    @property
    def config(self) -> Any:
        """The UNet's diffusers config."""
        return self.unet.config

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.unet.device


def _key(block: Block) -> str:
    # Names of modules may not contain dots.
    return block.place.replace(".", "_")
