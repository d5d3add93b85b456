"""The one family of exceptions. Each message says what is wrong, where, and what to do."""

from __future__ import annotations


class NasError(Exception):
    """Base of every error that this library raises on purpose."""


class ArchitectureError(NasError):
    """An architecture that cannot be read, or that belongs to another search space."""


class SearchSpaceError(NasError):
    """A UNet, config or file from which no search space can be derived."""


class TableError(NasError):
    """A latency table that is missing, corrupt, or measured for another workload."""


class BudgetError(NasError):
    """A latency budget that is not a number of milliseconds or that cannot be met."""


class DeviceError(NasError):
    """A device that does not exist here or cannot run what was asked."""


class ModelError(NasError):
    """A pipeline, network or set of weights that is missing, corrupt or unsuitable."""


class SearchError(NasError):
    """A search that cannot go on, for example a working folder that holds another run."""


class StorageError(NasError):
    """A file or folder that cannot be written."""


class MissingExtraError(NasError):
    """An optional dependency that is not installed; the message names the extra."""


class MissingRuntimeError(DeviceError, MissingExtraError):
    """A device whose runtime is not installed; the message names the extra."""
