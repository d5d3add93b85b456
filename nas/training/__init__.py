"""Training: pure losses, data sampled from the teacher, a loop that resumes exactly, and probes that are undone."""

from __future__ import annotations

from nas.training._batches import Batch, Batches
from nas.training._checks import shares_weights
from nas.training._data import TrainingData
from nas.training._distil_steps import distil_steps
from nas.training._features import stage_features
from nas.training._loop import Losses, Step, TrainingLog, train
from nas.training._memory import TrainingMemory, training_memory
from nas.training._probe import Probe, Snapshot, probe, probe_train
from nas.training._processes import Part, gradient_checkpoints
from nas.training._robust import robust_train
from nas.training._route import Stage, distil_route
from nas.training._settings import RobustTrainingSettings, Settings
from nas.training._step_objective import StepDistillationSettings
from nas.training._synthetic import synthetic_data
from nas.training._v_prediction import VPrediction, to_v_prediction

__all__ = [
    "Batch",
    "Batches",
    "Losses",
    "Part",
    "Probe",
    "RobustTrainingSettings",
    "Settings",
    "Snapshot",
    "Stage",
    "Step",
    "StepDistillationSettings",
    "TrainingData",
    "TrainingLog",
    "TrainingMemory",
    "VPrediction",
    "distil_route",
    "distil_steps",
    "gradient_checkpoints",
    "probe",
    "probe_train",
    "robust_train",
    "shares_weights",
    "stage_features",
    "synthetic_data",
    "to_v_prediction",
    "train",
    "training_memory",
]
