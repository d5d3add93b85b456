"""How well predictions rank what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata


def spearman(predicted: np.ndarray | Sequence[float], measured: np.ndarray | Sequence[float]) -> float:
    """Rank correlation of two [n]; 0 where all of either are equal, so that nothing is ranked."""
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(predicted), rankdata(measured))[0, 1])
