"""Evolve text-to-image diffusion UNets to a latency budget measured on the device in hand.

The names below are the whole façade; each is imported when it is first used, so that `import nas` stays cheap:

    pipe = StableDiffusionPipeline.from_pretrained(nas.bundled("emoji"))
    space = nas.SearchSpace.from_unet(pipe.unet)
    lut = nas.LatencyTable.measure(space, device="torch-cpu", batch_size=2)
    result = nas.evolve(nas.Supernet(pipe.unet, space), lut, budget_ms=0.6 * lut.latency_ms(space.full), ...)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.architecture import Architecture, Block
    from nas.compression import Compression, compress
    from nas.errors import NasError
    from nas.latency import ImageLatency, LatencyTable
    from nas.plots import (
        plot_block_values,
        plot_breakdown,
        plot_evolution,
        plot_pareto,
        plot_quality,
        plot_validation,
    )
    from nas.quality import ClipScore, Evaluation, TeacherDistance, evaluate
    from nas.resources import bundled
    from nas.search import Evolution, evolve
    from nas.search_space import SearchSpace
    from nas.supernet import EvolvedUNet, Supernet
    from nas.workload import Workload

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "Block",
    "ClipScore",
    "Compression",
    "Evaluation",
    "Evolution",
    "EvolvedUNet",
    "ImageLatency",
    "LatencyTable",
    "NasError",
    "SearchSpace",
    "Supernet",
    "TeacherDistance",
    "Workload",
    "bundled",
    "compress",
    "evaluate",
    "evolve",
    "plot_block_values",
    "plot_breakdown",
    "plot_evolution",
    "plot_pareto",
    "plot_quality",
    "plot_validation",
]

_HOMES = {
    "Architecture": "nas.architecture",
    "Block": "nas.architecture",
    "ClipScore": "nas.quality",
    "Compression": "nas.compression",
    "Evaluation": "nas.quality",
    "Evolution": "nas.search",
    "EvolvedUNet": "nas.supernet",
    "ImageLatency": "nas.latency",
    "LatencyTable": "nas.latency",
    "NasError": "nas.errors",
    "SearchSpace": "nas.search_space",
    "Supernet": "nas.supernet",
    "TeacherDistance": "nas.quality",
    "Workload": "nas.workload",
    "bundled": "nas.resources",
    "compress": "nas.compression",
    "evaluate": "nas.quality",
    "evolve": "nas.search",
    "plot_block_values": "nas.plots",
    "plot_breakdown": "nas.plots",
    "plot_evolution": "nas.plots",
    "plot_pareto": "nas.plots",
    "plot_quality": "nas.plots",
    "plot_validation": "nas.plots",
}


def __getattr__(name: str) -> Any:
    """The façade's names, imported on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The façade's names beside the module's own."""
    return sorted({*globals(), *__all__})
