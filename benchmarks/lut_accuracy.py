"""How well do lookup tables predict networks that they have not seen?

Builds a table for each space, measures random networks end to end, and prints the table's errors beside those of two
simpler models: base and rows as measured one by one, and the sum of the isolated blocks without a base. Run it on an
otherwise idle machine:

    python benchmarks/lut_accuracy.py --space emoji --space sd15 --json lut_accuracy.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas import Architecture, LatencyTable, SearchSpace
from nas._files import write_text_atomically
from nas.errors import NasError
from nas.latency import Pair, Timing, Validation

METHODS = {"table": "table, in context", "plain": "base + rows", "naive": "sum of isolated blocks"}


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        results: list[dict[str, Any]] = []
        for name in arguments.space:
            results.append(examine(name, arguments))
            print(report(results[-1:]), flush=True)
            if arguments.json:
                write_text_atomically(arguments.json, json.dumps(results, indent=2) + "\n")
    except NasError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--space", action="append", help="bundled space or file; may be given several times")
    parser.add_argument("--device", default="torch-cpu")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--networks", type=int, default=20, help="held-out random networks, each measured end to end")
    parser.add_argument("--seed", type=int, default=0, help="of the random networks")
    parser.add_argument("--max-seconds", type=float, default=Timing.max_seconds, help="for each row and each network")
    parser.add_argument("--passes", type=int, default=4, help="how often each network is measured in its turn")
    parser.add_argument("--tables", type=Path, help="folder to write the validated tables to")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args(argv)
    arguments.space = arguments.space or ["emoji", "sd15"]
    return arguments


def examine(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    space, timing = SearchSpace.load(name), Timing(max_seconds=arguments.max_seconds)
    start = time.perf_counter()
    table = LatencyTable.measure(
        space,
        device=arguments.device,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        threads=arguments.threads,
        timing=timing,
    )
    build_seconds = time.perf_counter() - start
    keep(table, arguments)
    patient = replace(timing, passes=arguments.passes, max_seconds=2 * arguments.max_seconds, extra_seconds=120)
    validation = table.validate(networks=arguments.networks, seed=arguments.seed, timing=patient)
    keep(table, arguments)
    naive = validation.repredicted(lambda pair: naive_ms(table, pair))
    plain = validation.repredicted(lambda pair: plain_ms(table, pair))
    found = {"table": validation, "plain": plain, "naive": naive}
    return described(table, build_seconds) | {method: figures(validation) for method, validation in found.items()}


def keep(table: LatencyTable, arguments: argparse.Namespace) -> None:
    """Write the table, so that an end before the last network loses little."""
    if arguments.tables:
        table.save(arguments.tables / f"{table.space.name}_{table.device}_{table.workload.precision}.yaml")


def plain_ms(table: LatencyTable, pair: Pair) -> float:
    """Without what the full network tells of the blocks in context."""
    return table.base_ms + (pair.predicted_ms - table.base_ms) / table.in_context


def naive_ms(table: LatencyTable, pair: Pair) -> float:
    """What one would write down first: every block's own row, nothing for what lies between."""
    architecture, workload, total_ms = Architecture.parse(pair.architecture), table.workload, 0.0
    for block in table.space.blocks:
        runs = architecture.runs(block)
        total_ms += min(runs, 1) * table.rows[block.signature(workload)].median_ms
        total_ms += max(runs - 1, 0) * table.rows[block.signature(workload, copy=True)].median_ms
    # A network in which every block is skipped would take no time at all.
    return max(total_ms, 1e-6)


def described(table: LatencyTable, build_seconds: float) -> dict[str, Any]:
    full_ms = table.latency_ms(table.space.full)
    return {
        "space": table.space.name,
        "workload": table.workload.describe(),
        "machine": dict(table.provenance),
        "build_seconds": round(build_seconds, 1),
        "build_forward_passes": round(build_seconds * 1000 / full_ms, 1),
        "rows": len(table.rows),
        "worst_row_drift": max(abs(row.drift) for row in (table.base, *table.rows.values())),
        "base_ms": table.base_ms,
        "full_ms": full_ms,
    }


def figures(validation: Validation) -> dict[str, Any]:
    return validation.to_dict()


def report(results: list[dict[str, Any]]) -> str:
    lines = []
    for result in results:
        machine = result["machine"]
        lines += [
            "",
            f"{result['space']}: {result['workload']}, {machine['device']} on {machine['hardware']}, "
            f"{machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}",
            f"base {result['base_ms']:.1f} ms, full {result['full_ms']:.1f} ms; {result['rows']} rows in "
            f"{result['build_seconds']} s ({result['build_forward_passes']} forward passes), "
            f"worst drift {result['worst_row_drift']:.1%}",
            f"{'':<24}{'networks':>9}{'mean':>8}{'worst':>8}{'in 5 %':>8}{'in 10 %':>8}{'Spearman':>10}",
        ]
        lines += [line(title, result[method]) for method, title in METHODS.items()]
    return "\n".join(lines)


def line(title: str, found: dict[str, Any]) -> str:
    shares = "".join(f"{found[name]:>8.1%}" for name in ("mean_error", "worst_error", "within_5", "within_10"))
    return f"{title:<24}{found['networks']:>9}{shares}{found['spearman']:>10.3f}"


if __name__ == "__main__":
    sys.exit(main())
