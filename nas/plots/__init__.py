"""Plots of searches, tables and evaluations: each a pure data function with a matplotlib and a plotly twin."""

from __future__ import annotations

from nas.plots._block_values import BlockValue, BlockValueData, block_value_data, plot_block_values
from nas.plots._breakdown import Bars, BreakdownData, breakdown_data, plot_breakdown
from nas.plots._evolution import EvolutionData, Stop, evolution_data, plot_evolution
from nas.plots._pareto import ParetoData, Point, pareto_data, plot_pareto
from nas.plots._pictures import plot_pictures
from nas.plots._quality import QualityCurve, QualityData, QualityDot, plot_quality, quality_data
from nas.plots._validation import Prediction, ValidationData, plot_validation, validation_data

__all__ = [
    "Bars",
    "BlockValue",
    "BlockValueData",
    "BreakdownData",
    "EvolutionData",
    "ParetoData",
    "Point",
    "Prediction",
    "QualityCurve",
    "QualityData",
    "QualityDot",
    "Stop",
    "ValidationData",
    "block_value_data",
    "breakdown_data",
    "evolution_data",
    "pareto_data",
    "plot_block_values",
    "plot_breakdown",
    "plot_evolution",
    "plot_pareto",
    "plot_pictures",
    "plot_quality",
    "plot_validation",
    "quality_data",
    "validation_data",
]
