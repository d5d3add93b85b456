"""The lookup table: what a search believes about a device."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nas.architecture import Architecture, Block
from nas.errors import TableError
from nas.latency import _storage
from nas.latency._frame import frame_of
from nas.latency._network import as_device, device_of, validate
from nas.latency._prediction import Costs, check_rows, counts_of, saving_ms
from nas.latency._provenance import now, workload_provenance
from nas.latency._row import Row
from nas.latency._timing import Timing
from nas.latency._validation import Validation
from nas.search_space import SearchSpace
from nas.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from diffusers import UNet2DConditionModel

    from nas.latency.devices import Device

_A_LITTLE_BELOW = 0.9
_BEST_WITH = "measure one with nas.LatencyTable.measure or `nas lut build`"


@dataclass
class LatencyTable:
    """Measured latencies of a search space's blocks on one device, for one workload.

    A network's latency is `base_ms`, plus the row of every block that runs less the row of the shortcut that its
    skipping would leave, plus the row of every copy; all rows times `in_context`, the factor at which the sums are what
    a few networks took end to end.

    Attributes:
        space: the search space.
        workload: batch, latent size, context length, precision.
        rows: signature -> row; signatures as of `Block.signature` and `Block.shortcut_signature`.
        base: the network with every block skipped that may be, end to end.
        wholes: the full network and a few others, end to end, measured along with the rows; none where they were too
            large for that.
        provenance: device, hardware, versions, threads, date and whatever else decided the speed.
        validation: the table's error on networks it has not seen, of `measure(held_out=...)` or `validate`.

    Raises:
        TableError: rows are missing, or are of no block of the space, or the base is above a whole network.
    """

    schema: ClassVar[int] = _storage.SCHEMA

    space: SearchSpace
    workload: Workload
    rows: Mapping[str, Row]
    base: Row
    provenance: Mapping[str, str | int | float]
    validation: Validation | None = field(default=None)
    wholes: Mapping[Architecture, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "device" not in self.provenance:
            raise TableError("provenance lacks the device")
        check_rows(self.space, self.workload, self.rows, fixed=not self.is_fitted)
        blocks_ms = self._blocks_ms(self.space.full)
        full_ms = self.base_ms + min(blocks_ms, self.in_context * blocks_ms)
        least_ms = min([full_ms, *(row.latency_ms for row in self.wholes.values())])
        # A network of next to no blocks may be measured a little below the base.
        if full_ms < self.base_ms or least_ms < _A_LITTLE_BELOW * self.base_ms:
            raise TableError(f"base is {self.base_ms} ms, above the whole network's {least_ms:.6g} ms; {_BEST_WITH}")

    # Where a table comes from.

    @classmethod
    def measure(
        cls,
        space: SearchSpace,
        *,
        device: str | Device = "torch-cpu",
        batch_size: int = 2,
        height: int | None = None,
        width: int | None = None,
        context_length: int | None = None,
        precision: str | None = None,
        threads: int | None = None,
        copies: bool = True,
        whole_networks: int = 5,
        held_out: int = 0,
        seed: int = 0,
        timing: Timing | None = None,
        visits: str | os.PathLike[str] | None = None,
    ) -> LatencyTable:
        """Measure a table on this machine, with random weights: latency does not depend on them.

        Args:
            space: whose blocks to measure.
            device: one of `nas.latency.devices.device_names()`, or a device of your own.
            batch_size: samples a forward pass; 2 is one picture under classifier-free guidance.
            height: rows of the latent; the space's own when None.
            width: columns of the latent; the space's own when None.
            context_length: tokens of the text; the space's own when None.
            precision: "fp32", "fp16" or "bf16"; the device's usual one when None, which is fp16 for Core ML.
            threads: CPU threads; as torch is set when None.
            copies: also measure what copies of blocks cost.
            whole_networks: how many networks to measure end to end for `in_context`, the full one first; several
                outvote one that was disturbed. None of models above 4 GiB. 0 where the device has no room for the
                network: a block at a time, and the base, are then all there is in memory.
            held_out: how many random networks to measure end to end in turns with the rows, so that both see the same
                machine; the table knows nothing of them, and `validation` says how well it predicts them. Of models of
                any size: each is in memory as a whole. `validate` measures them afterwards.
            seed: of those networks.
            timing: how long to measure.
            visits: file for all that is measured, as it is measured; an interrupted measurement goes on from there.
                Remove it when the table is saved: from a complete one the same table is made once more.

        Raises:
            DeviceError: the device is not here, or cannot run a block.
            TableError: the workload or a number of networks makes no sense, or the file holds another measurement.
            StorageError: the file cannot be written.
        """
        from nas.latency._building import build

        size = {"height": height, "width": width, "context_length": context_length}
        device = as_device(device, threads=threads)
        workload = Workload.of(space, batch_size=batch_size, precision=precision or device.usual_precision, **size)
        options = {"copies": copies, "whole_networks": whole_networks, "held_out": held_out, "seed": seed}
        return build(space, workload, device, timing=timing or Timing(), visits=visits, **options)

    @classmethod
    def fit(
        cls,
        space: SearchSpace,
        architectures: Iterable[Architecture] | np.ndarray,
        latencies_ms: Sequence[float] | np.ndarray,
        *,
        device: str,
        workload: Workload | None = None,
        provenance: Mapping[str, str | int | float] | None = None,
        keep_unusable: bool = False,
    ) -> LatencyTable:
        """Fit a table to the latencies of whole networks, for devices on which no block can be timed by itself.

        See `nas.latency.fit_rows`; no row is let below 0. Whole networks tell a block only from the shortcut that its
        skipping leaves, so the shortcuts are in the base, their rows next to nothing, and a block's row is what it
        takes more than its shortcut. A row's `spread_ms` is the interquartile range of its estimate (from its standard
        error), its `count` the number of networks in which it runs. Copies have rows if any network has one.
        `validation` holds the cross-validated predictions of the networks given, `provenance` says whether the fit is
        usable and why.

        Args:
            space: whose networks were measured.
            architectures: the networks, or the runs of every place in network order as whole numbers [n x p].
            latencies_ms: what they take end to end, in ms, [n].
            device: the name of the device they were measured on.
            workload: what they were measured for; the space's own latent size, batch 2 and fp32 when None.
            provenance: whatever else decided the speed: hardware, runtime and version, threads, date.
            keep_unusable: give the table even if the fit is not usable.

        Raises:
            ArchitectureError: an architecture is of another space.
            TableError: the numbers are no latencies, the networks are too few or do not tell the rows apart, or the
                fit is not usable; the message says which.
        """
        from nas.latency._fitted_table import fitted_fields

        workload, runs = workload or Workload.of(space), counts_of(space, architectures)
        known = {"date": now(), **(provenance or {}), "device": device, **workload_provenance(workload)}
        fields = fitted_fields(
            space, workload, runs, latencies_ms, keep_unusable=keep_unusable, date=str(known["date"])
        )
        return cls(**{**fields, "space": space, "workload": workload, "provenance": known | fields["provenance"]})

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str]) -> LatencyTable:
        """Read a table from a YAML file, or a bundled one by name.

        Raises:
            TableError: there is no such table, or it is damaged; the message names file and field.
        """
        fields = _storage.load_table(path_or_name)
        try:
            return cls(**fields)
        except TableError as error:
            raise TableError(f"{path_or_name}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table, validation included, as YAML; a file already there is replaced in one step.

        Raises:
            StorageError: the system refuses to write.
        """
        _storage.save_table(self, path)

    # What it says.

    @property
    def name(self) -> str:
        """For people: "sd15 on torch-cpu"."""
        return f"{self.space.name} on {self.device}"

    @property
    def device(self) -> str:
        """The name of the device it was measured on."""
        return str(self.provenance["device"])

    @property
    def threads(self) -> int | None:
        """CPU threads that it was measured with; None where the runtime chose."""
        threads = self.provenance.get("threads")
        return threads if isinstance(threads, int) else None

    @property
    def base_ms(self) -> float:
        """Latency of the network with every block skipped that may be: nothing can be faster."""
        return self.base.latency_ms

    @property
    def is_fitted(self) -> bool:
        """Whether its rows are from whole networks' latencies, see `fit`; fixed blocks and shortcuts have none then."""
        return "fit" in self.provenance

    @cached_property
    def in_context(self) -> float:
        """What blocks take in a network over what they take one by one; 1 where no network was measured as a whole.

        Between its neighbours a block meets other caches, and queues that are filled otherwise. The median over the
        networks in `wholes`, so that one that was disturbed is outvoted.
        """
        found = [(row.latency_ms, self._blocks_ms(network)) for network, row in self.wholes.items()]
        factors = [(whole_ms - self.base_ms) / blocks_ms for whole_ms, blocks_ms in found if blocks_ms]
        return statistics.median(factors) if factors else 1.0

    def latency_ms(self, architecture: Architecture) -> float:
        """Predicted latency of one network.

        Raises:
            ArchitectureError: it is of another space.
            TableError: it has copies, and those were not measured.
        """
        return float(self.latencies_ms([architecture])[0])

    def latencies_ms(self, architectures: Iterable[Architecture] | np.ndarray) -> np.ndarray:
        """Predicted latencies, [n].

        Args:
            architectures: architectures, or the runs of every place in network order as whole numbers [n x p].

        Raises:
            ArchitectureError: one is of another space.
            TableError: one has copies that were not measured, or the matrix is not one of runs.
        """
        return self.base_ms + self.in_context * self._costs.sum_ms(counts_of(self.space, architectures))

    def block_ms(self, block: Block | str) -> float:
        """What removing the block saves: its row, less that of the shortcut that stays, in context."""
        return self.in_context * saving_ms(self.space.block(str(block)), self.workload, self.rows)

    def copy_ms(self, block: Block | str) -> float:
        """What one copy of the block adds, in context.

        Raises:
            TableError: copies were not measured.
        """
        signature = self.space.block(str(block)).signature(self.workload, copy=True)
        if signature not in self.rows:
            raise TableError(f"the table has no row {signature!r}; {_BEST_WITH}, copies=True")
        return self.in_context * self.rows[signature].latency_ms

    def to_frame(self) -> pd.DataFrame:
        """One line a row, the base first, then the networks that were measured as wholes.

        `blocks` says how many blocks of the full network have that signature.
        """
        return frame_of(self)

    # Whether to believe it.

    def require(self, workload: Workload | None = None, **wanted: int | str) -> None:
        """Refuse to be used for another workload than it was measured for.

        Args:
            workload: what is asked for, or
            **wanted: some of its fields: batch_size, height, width, context_length, precision.

        Raises:
            TableError: names the first field that differs.
        """
        known = vars(self.workload)
        asked = {**(vars(workload) if workload else {}), **wanted}
        if unknown := [name for name in asked if name not in known]:
            raise TableError(f"{unknown[0]!r} is no field of a workload; there are {', '.join(known)}")
        for name, value in asked.items():
            if known[name] != value:
                raise TableError(
                    f"the table {self.name!r} was measured with {name} {known[name]}, not {value} "
                    f"({self.workload.describe()}); {_BEST_WITH} for {name} {value}"
                )

    def validate(
        self,
        unet: UNet2DConditionModel | None = None,
        *,
        networks: int = 20,
        seed: int = 0,
        device: str | Device | None = None,
        timing: Timing | None = None,
        visits: str | os.PathLike[str] | None = None,
    ) -> Validation:
        """Measure random networks end to end and keep the table's error on them in `validation`.

        None of the networks has copies of blocks; of what copies take, the error says nothing.

        Args:
            unet: whose weights to use (none is copied or changed); random ones, a network at a time, when None.
            networks: how many.
            seed: of the random architectures.
            device: where to measure; the table's own device when None.
            timing: how long to measure.
            visits: as of `measure`.

        Raises:
            DeviceError: the device is not on this machine.
            TableError: `networks` makes no sense, or the file holds another measurement.
            StorageError: the file cannot be written.
        """
        chosen = device_of(self) if device is None else as_device(device)
        timing = timing or Timing()
        options = {"networks": networks, "seed": seed, "timing": timing, "visits": visits}
        self.validation = validate(self, unet, device=chosen, **options)
        return self.validation

    def _blocks_ms(self, architecture: Architecture) -> float:
        # What its blocks take one by one.
        return float(self._costs.sum_ms(counts_of(self.space, [architecture]))[0])

    @cached_property
    def _costs(self) -> Costs:
        return Costs.of(self.space, self.workload, self.rows)
