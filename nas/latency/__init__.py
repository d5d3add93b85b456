"""Latency tables: measured rows for blocks, a base for the rest, and how well their sum predicts whole networks.

And what a network is a part of: the latency of a whole image.
"""

from nas.latency._agreement import Agreement, agreement
from nas.latency._breakdown import Part, breakdown
from nas.latency._decoders import measure_decoders_ms
from nas.latency._difference import Difference, RowDifference, difference
from nas.latency._fitting import FittedRows, fit_rows
from nas.latency._image import ImageLatency
from nas.latency._network import PATIENT, device_of, measure_network_ms, measure_networks_ms
from nas.latency._row import Row
from nas.latency._table import LatencyTable
from nas.latency._timing import Timing
from nas.latency._validation import Pair, Validation

__all__ = [
    "PATIENT",
    "Agreement",
    "Difference",
    "FittedRows",
    "ImageLatency",
    "LatencyTable",
    "Pair",
    "Part",
    "Row",
    "RowDifference",
    "Timing",
    "Validation",
    "agreement",
    "breakdown",
    "device_of",
    "difference",
    "fit_rows",
    "measure_decoders_ms",
    "measure_network_ms",
    "measure_networks_ms",
]
