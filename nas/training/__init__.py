"""Training: pure losses, data sampled from the teacher, a loop that resumes exactly, and probes that are undone."""

from __future__ import annotations

from nas.training._batches import Batch, Batches
from nas.training._data import TrainingData
from nas.training._probe import Probe, Snapshot, probe, probe_train
from nas.training._robust import TrainingLog, robust_train
from nas.training._synthetic import synthetic_data

__all__ = [
    "Batch",
    "Batches",
    "Probe",
    "Snapshot",
    "TrainingData",
    "TrainingLog",
    "probe",
    "probe_train",
    "robust_train",
    "synthetic_data",
]
