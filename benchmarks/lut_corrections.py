"""Would another correction than one factor on all rows predict whole networks better?

Reads tables that carry whole networks, to which the corrections are fitted, and a validation, by whose networks they
are judged. Nothing is measured.

    python benchmarks/lut_corrections.py latency_tables/{emoji,sd15}_*-cpu_fp32.yaml --json lut_corrections.json

Those of `FITS` are fitted by least squares of the relative errors to the table's base and five whole networks; a ridge
draws the number that each has beside the factor to where it changes nothing, and the factor of the first one, too. The
last one has a number for each row and one for the base, drawn there the more the less the canary was off around it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from _report import write_report
from lut_accuracy import known_wholes, macs_model, plain_ms

from nas import Architecture, LatencyTable
from nas.errors import NasError

# How strongly the additional numbers are drawn to where they change nothing, against relative errors of all networks.
RIDGE = 0.1
# Where rows have a number each: the relative error that a whole network may keep, and that of a row that nothing
# disturbed; of one around which the canary was off by x, x times so much more.
NOISE, OF_ROWS, OF_DRIFT = 0.02, 0.02, 0.5


class Parts:
    """What a table's sums for some networks are made of, in ms, each [networks]: base, attention, ResNets; and pairs.

    Pairs are places where a ResNet and the attention behind it both run, which a compiler may fuse.

    Attributes:
        by_row: what the blocks of each row add, [networks x rows].
        doubts: how far each row may be off, as a fraction, the base last.
    """

    def __init__(self, table: LatencyTable, networks: Sequence[Architecture]) -> None:
        places = {block.place for block in table.space.blocks}
        sums = np.array([plain_ms(table, network) for network in networks])
        saved = {block.place: table.block_ms(block) / table.in_context for block in table.space.blocks}
        self.base = np.full(len(networks), table.base_ms)
        self.attention = np.array(
            [sum(saved[p] for p in places if ".attention" in p and network.runs(p)) for network in networks]
        )
        self.resnets = sums - self.base - self.attention
        behind = {place: place.replace(".resnet.", ".attention.") for place in places if ".resnet." in place}
        pairs = [(p, q) for p, q in behind.items() if q in places]
        self.pairs = np.array(
            [float(sum(network.runs(p) > 0 < network.runs(q) for p, q in pairs)) for network in networks]
        )
        named = {block.place: block.signature(table.workload) for block in table.space.blocks}
        names = sorted(set(named.values()))
        self.by_row = np.zeros((len(networks), len(names)))
        for index, network in enumerate(networks):
            for place in places:
                self.by_row[index, names.index(named[place])] += saved[place] * network.runs(place)
        drifts = [row.drift or 0.0 for row in (*(table.rows[name] for name in names), table.base)]
        self.doubts = np.hypot(OF_ROWS, OF_DRIFT * np.array(drifts))

    @property
    def rows(self) -> np.ndarray:
        """All blocks together."""
        return self.attention + self.resnets


Fit = Callable[[Parts, np.ndarray], Callable[[Parts], np.ndarray]]


def ridge(columns: Sequence[np.ndarray], wanted: np.ndarray, scale: np.ndarray, drawn: Sequence[bool]) -> np.ndarray:
    """Coefficients of columns [networks] that add up to `wanted` by relative errors; those that are `drawn` near 0."""
    matrix = np.stack(columns, axis=1) / scale[:, None]
    unit = np.sqrt((matrix**2).sum(axis=0))  # a number counts by what it changes
    penalty = np.diag(np.sqrt(RIDGE) * unit * np.array(drawn, dtype=float))
    return np.linalg.lstsq(np.vstack([matrix, penalty]), np.append(wanted / scale, np.zeros(len(unit))), rcond=None)[0]


def factor(parts: Parts, measured: np.ndarray) -> Callable[[Parts], np.ndarray]:
    (more,) = ridge([parts.rows], measured - parts.base - parts.rows, measured, [True])
    return lambda other: other.base + (1 + more) * other.rows


def factor_and_base(parts: Parts, measured: np.ndarray) -> Callable[[Parts], np.ndarray]:
    more, base = ridge([parts.rows, parts.base], measured - parts.base - parts.rows, measured, [False, True])
    return lambda other: (1 + base) * other.base + (1 + more) * other.rows


def factor_by_kind(parts: Parts, measured: np.ndarray) -> Callable[[Parts], np.ndarray]:
    columns = [parts.rows, parts.attention - parts.resnets]
    more, apart = ridge(columns, measured - parts.base - parts.rows, measured, [False, True])
    return lambda other: other.base + (1 + more + apart) * other.attention + (1 + more - apart) * other.resnets


def factor_and_pairs(parts: Parts, measured: np.ndarray) -> Callable[[Parts], np.ndarray]:
    columns = [parts.rows, parts.pairs]
    more, each = ridge(columns, measured - parts.base - parts.rows, measured, [False, True])
    return lambda other: other.base + (1 + more) * other.rows + each * other.pairs


def factor_and_each_row(parts: Parts, measured: np.ndarray) -> Callable[[Parts], np.ndarray]:
    def columns(of: Parts) -> np.ndarray:
        return np.column_stack([of.rows, of.by_row, of.base])

    left = (measured - parts.base - parts.rows) / measured / NOISE
    penalty = np.diag(np.append(0.0, 1 / parts.doubts))
    matrix = np.vstack([columns(parts) / measured[:, None] / NOISE, penalty])
    changes = np.linalg.lstsq(matrix, np.append(left, np.zeros(len(penalty))), rcond=None)[0]
    return lambda other: other.base + other.rows + columns(other) @ changes


FITS: dict[str, Fit] = {
    "a factor drawn towards 1": factor,
    "a factor, and one for the base": factor_and_base,
    "a factor for attention, one for ResNets": factor_by_kind,
    "a factor, and a term for neighbours": factor_and_pairs,
    "a factor, and one for each row by its drift": factor_and_each_row,
}


def errors_of(table: LatencyTable) -> dict[str, float]:
    """Mean error of each correction on the networks of the validation."""
    wholes = known_wholes(table)
    known, measured = Parts(table, list(wholes)), np.array([row.latency_ms for row in wholes.values()])
    networks = [Architecture.parse(pair.architecture) for pair in table.validation.pairs]
    unseen, truth = Parts(table, networks), np.array([pair.measured_ms for pair in table.validation.pairs])
    macs = macs_model(table, wholes)
    now = table.latencies_ms(networks)
    predicted = {
        "rows as measured": unseen.base + unseen.rows,
        "the median factor (what tables have)": now,
        **{name: fit(known, measured)(unseen) for name, fit in FITS.items()},
        "half the median factor's, half MACs x a constant": (now + [macs(network) for network in networks]) / 2,
    }
    return {name: float(np.abs(found / truth - 1).mean()) for name, found in predicted.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args(argv)
    try:
        errors: dict[str, dict[str, float]] = {}
        for path in arguments.tables:
            table = LatencyTable.load(path)
            if table.validation is None or not table.wholes:
                raise NasError(f"{path} has no whole networks or no validation")
            errors[path.stem] = errors_of(table)
        frame = pd.DataFrame(errors).assign(mean=lambda found: found.mean(axis=1))
        write_report({"mean_error": frame.rename_axis("correction").reset_index().to_dict("records")}, arguments.json)
    except NasError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
