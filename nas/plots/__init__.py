"""Plots of a search. Each has one pure data function, and a matplotlib and a plotly twin that draw what it returns."""

from __future__ import annotations

from nas.plots._block_values import BlockValue, BlockValueData, block_value_data, plot_block_values
from nas.plots._evolution import EvolutionData, Stop, evolution_data, plot_evolution
from nas.plots._pareto import ParetoData, Point, pareto_data, plot_pareto
from nas.plots._pictures import plot_pictures

__all__ = [
    "BlockValue",
    "BlockValueData",
    "EvolutionData",
    "ParetoData",
    "Point",
    "Stop",
    "block_value_data",
    "evolution_data",
    "pareto_data",
    "plot_block_values",
    "plot_evolution",
    "plot_pareto",
    "plot_pictures",
]
