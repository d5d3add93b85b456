"""How many architectures a second does a latency table score?

Fills a table with random rows (their values do not matter to its speed), draws as many random architectures as asked
for as a matrix of runs, and times `LatencyTable.latencies_ms` on it. The rate is for a second of processor time, of all
threads together, and so one for a single core:

    python benchmarks/lut_speed.py --space sd15 --json lut_speed.json
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from _report import write_report

from nas import LatencyTable, SearchSpace, Workload
from nas.errors import NasError
from nas.latency import Row


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        table = synthetic_table(SearchSpace.load(arguments.space))
    except NasError as error:
        print(error, file=sys.stderr)
        return 1
    figures: dict[str, str | int | float] = {
        "space": table.space.name,
        "places": len(table.space.blocks),
        "table": "synthetic",
        "architectures": arguments.architectures,
    }
    for dtype in (np.int64, np.int8):
        name, runs = np.dtype(dtype).name, random_runs(table.space, arguments.architectures, dtype)
        processor, wall = seconds(table, runs, arguments.repeats)
        figures[f"{name}_per_processor_second"] = arguments.architectures / processor
        figures[f"{name}_per_second"] = arguments.architectures / wall
    write_report(figures, arguments.json)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", default="sd15", help="bundled space or file")
    parser.add_argument("--architectures", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5, help="of which the median counts")
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args(argv)


def synthetic_table(space: SearchSpace) -> LatencyTable:
    """A table with a random row for everything that a measured one has a row for; shortcuts cheaper than blocks."""
    rng, workload, rows = random.Random(0), Workload.of(space), {}
    for block in space.blocks:
        rows[block.signature(workload)] = Row(rng.uniform(1, 9), 0.1, 5)
        rows[block.signature(workload, copy=True)] = Row(rng.uniform(1, 9), 0.1, 5)
        if shortcut := block.shortcut_signature(workload):
            rows[shortcut] = Row(rng.uniform(0.1, 0.5), 0.1, 5)
    return LatencyTable(space, workload, rows, Row(7.5, 0.1, 5), {"device": "synthetic"})


def random_runs(space: SearchSpace, architectures: int, dtype: type[np.integer]) -> np.ndarray:
    """Runs of every place from 0 to as many as the space allows, [architectures x places]."""
    shape = (architectures, len(space.blocks))
    return np.random.default_rng(0).integers(0, 2 + space.max_copies, shape, dtype=dtype)


def seconds(table: LatencyTable, runs: np.ndarray, repeats: int) -> tuple[float, float]:
    """Median processor time (of all threads) and median wall time of scoring all of them once."""
    table.latencies_ms(runs[:1])
    processor, wall = [], []
    for _ in range(repeats):
        start = time.process_time(), time.perf_counter()
        table.latencies_ms(runs)
        processor.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return statistics.median(processor), statistics.median(wall)


if __name__ == "__main__":
    sys.exit(main())
