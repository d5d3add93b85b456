"""What a latency is measured for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.errors import TableError

if TYPE_CHECKING:
    from nas.search_space import SearchSpace

PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Workload:
    """Everything about the input that decides a network's latency.

    Attributes:
        batch_size: samples in one forward pass; 2 for one picture under classifier-free guidance.
        height: rows of the latent, not of the picture.
        width: columns of the latent.
        context_length: tokens of the text that cross-attention looks at.
        precision: "fp32", "fp16" or "bf16".
    """

    batch_size: int
    height: int
    width: int
    context_length: int
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("batch_size", "height", "width", "context_length"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TableError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.precision not in PRECISIONS:
            raise TableError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        *,
        batch_size: int = 2,
        height: int | None = None,
        width: int | None = None,
        context_length: int | None = None,
        precision: str = "fp32",
    ) -> Workload:
        """The workload of a search space: its own latent size and context length unless told otherwise."""
        default_height, default_width = space.latent_size
        return cls(
            batch_size,
            default_height if height is None else height,
            default_width if width is None else width,
            space.context_length if context_length is None else context_length,
            precision,
        )

    def describe(self) -> str:
        """For people: "batch 2, 64x64 latents, 77 context tokens, fp32"."""
        size = f"{self.height}x{self.width} latents"
        return f"batch {self.batch_size}, {size}, {self.context_length} context tokens, {self.precision}"
