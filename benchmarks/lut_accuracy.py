"""How well do lookup tables predict networks that they have not seen?

Builds a table for each device and space, measures random networks end to end, and prints the table's errors beside
those of simpler models: base and rows as measured one by one; the sum of the isolated blocks without a base; and,
fitted to the whole networks that were measured along with the table's rows, multiply-accumulates times a constant and a
random forest on block counts. Each table is built in a process of its own, whose peak memory is reported. With
`--together` the networks are measured in turns with the rows instead of afterwards, so that the errors are the table's
own also where a machine is not as fast in one quarter of an hour as in the next. With `--visits` the samples stay, and
what was interrupted goes on where it stopped. Run it on an otherwise idle machine:

    python benchmarks/lut_accuracy.py --space sd15 --device torch-cpu --device openvino-cpu --json lut_accuracy.json

The random forest is scikit-learn's: pip install 'nas[benchmarks]'.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from nas import Architecture, LatencyTable, SearchSpace
from nas._files import write_text_atomically
from nas.errors import MissingExtraError, NasError, SearchError
from nas.latency import Row, Timing, Validation
from nas.unet import network_macs, torch_dtype

METHODS = {
    "table": "table, in context",
    "plain": "base + rows",
    "naive": "sum of isolated blocks",
    "macs": "MACs x a constant",
    "forest": "random forest on counts",
}
Model: TypeAlias = Callable[[Architecture], float]


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        if arguments.networks:
            random_forest()
        results: list[dict[str, Any]] = []
        for device in arguments.device:
            for space in arguments.space:
                results.append(in_own_process(space, device, arguments))
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
    parser.add_argument("--device", action="append", help="torch-cpu if none is given; may be given several times")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--networks", type=int, default=20, help="random networks, measured end to end; 0: build only")
    parser.add_argument("--largest-gib", type=float, default=4.0, help="of weights; above this, build only")
    parser.add_argument("--seed", type=int, default=0, help="of the random networks")
    parser.add_argument("--max-seconds", type=float, default=Timing.max_seconds, help="for each row and each network")
    parser.add_argument("--passes", type=int, default=4, help="of the networks; with --together of all")
    parser.add_argument("--together", action="store_true", help="measure networks and rows in turns, in all passes")
    parser.add_argument("--visits", type=Path, help="folder for all samples, as they are measured: goes on from there")
    parser.add_argument("--tables", type=Path, help="folder to write the validated tables to")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args(argv)
    arguments.space = arguments.space or ["emoji", "sd15"]
    arguments.device = arguments.device or ["torch-cpu"]
    return arguments


def in_own_process(space: str, device: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """`examine` where its peak memory is its own, and no runtime's threads or caches are left to the next."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(examine, space, device, arguments).result()
        except BrokenProcessPool as error:
            raise SearchError(f"{space} on {device}: the process ended, for want of memory perhaps") from error


def examine(name: str, device: str, arguments: argparse.Namespace) -> dict[str, Any]:
    space, timing = SearchSpace.load(name), Timing(max_seconds=arguments.max_seconds)
    validated = arguments.networks > 0 and weights_gib(space, arguments.precision) <= arguments.largest_gib
    together = validated and arguments.together
    if together:
        timing = replace(timing, passes=arguments.passes, extra_seconds=2 * timing.extra_seconds)
    samples = samples_in(arguments, f"{space.name}_{device}")
    resumed = samples is not None and samples.exists()
    start = time.perf_counter()
    table = LatencyTable.measure(
        space,
        device=device,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        threads=arguments.threads,
        held_out=arguments.networks if together else 0,
        seed=arguments.seed,
        timing=timing,
        visits=samples,
    )
    result = described(table, time.perf_counter() - start, resumed=resumed)
    keep(table, arguments)
    if validated and not together:
        patient = replace(timing, passes=arguments.passes, max_seconds=2 * arguments.max_seconds, extra_seconds=120)
        visits = samples_in(arguments, f"{space.name}_{device}_networks")
        table.validate(networks=arguments.networks, seed=arguments.seed, timing=patient, visits=visits)
        keep(table, arguments)
    return result | judged(table) if validated else result


def samples_in(arguments: argparse.Namespace, name: str) -> Path | None:
    return arguments.visits and arguments.visits / f"{name}.jsonl"


def keep(table: LatencyTable, arguments: argparse.Namespace) -> None:
    """Write the table, so that an end before the last network loses little."""
    if arguments.tables:
        batch = "" if table.workload.batch_size == 2 else f"_batch{table.workload.batch_size}"
        table.save(arguments.tables / f"{table.space.name}_{table.device}_{table.workload.precision}{batch}.yaml")


def weights_gib(space: SearchSpace, precision: str) -> float:
    """Of the full network, in the precision that it is measured in."""
    return space.parameters * torch_dtype(precision).itemsize / 2**30


# What the models predict.


def judged(table: LatencyTable) -> dict[str, Any]:
    """The figures of each model (None where it cannot be had), and what it says of each network."""
    models, measured = models_of(table), table.validation
    found = {name: None if model is None else repredicted(measured, model) for name, model in models.items()}
    networks = [
        {"architecture": pair.architecture, "measured_ms": pair.measured_ms, "drift": pair.drift}
        | {f"{name}_ms": validation.pairs[index].predicted_ms for name, validation in found.items() if validation}
        for index, pair in enumerate(measured.pairs)
    ]
    figures = {name: validation and validation.summary() for name, validation in found.items()}
    at_equal_speed = measured.at_equal_speed()
    figures |= {"slowdown": measured.slowdown, "at_equal_speed": at_equal_speed and at_equal_speed.summary()}
    return {"seed": measured.seed, "fitted_to": len(known_wholes(table)), **figures, "networks": networks}


def repredicted(measured: Validation, model: Model) -> Validation:
    # A network of which a model says that it takes no time at all is as wrong as can be.
    return measured.repredicted(lambda pair: max(model(Architecture.parse(pair.architecture)), 1e-6))


def models_of(table: LatencyTable) -> dict[str, Model | None]:
    wholes = known_wholes(table)
    return {
        "table": table.latency_ms,
        "plain": lambda architecture: plain_ms(table, architecture),
        "naive": lambda architecture: naive_ms(table, architecture),
        "macs": macs_model(table, wholes) if wholes else None,
        "forest": forest_model(table, wholes) if wholes else None,
    }


def known_wholes(table: LatencyTable) -> dict[Architecture, Row]:
    """All networks that the table knows end to end, the base among them; none where they were too large for that."""
    return {table.space.empty: table.base, **table.wholes} if table.wholes else {}


def plain_ms(table: LatencyTable, architecture: Architecture) -> float:
    """Without what whole networks tell of the blocks in context."""
    return table.base_ms + (table.latency_ms(architecture) - table.base_ms) / table.in_context


def naive_ms(table: LatencyTable, architecture: Architecture) -> float:
    """What one would write down first: every block's own row, nothing for what lies between."""
    total_ms, workload = 0.0, table.workload
    for block in table.space.blocks:
        runs = architecture.runs(block)
        total_ms += min(runs, 1) * table.rows[block.signature(workload)].latency_ms
        total_ms += max(runs - 1, 0) * table.rows[block.signature(workload, copy=True)].latency_ms
    return total_ms


def macs_model(table: LatencyTable, wholes: Mapping[Architecture, Row]) -> Model:
    """The constant is the median over the networks, as the table's own factor is."""

    def macs(architecture: Architecture) -> int:
        return network_macs(table.space, table.workload, architecture)

    constant = statistics.median(row.latency_ms / macs(architecture) for architecture, row in wholes.items())
    return lambda architecture: constant * macs(architecture)


def forest_model(table: LatencyTable, wholes: Mapping[Architecture, Row]) -> Model:
    forest = random_forest()(n_estimators=500, random_state=0)
    forest.fit([block_counts(table, network) for network in wholes], [row.latency_ms for row in wholes.values()])
    return lambda architecture: float(forest.predict([block_counts(table, architecture)])[0])


def block_counts(table: LatencyTable, architecture: Architecture) -> list[int]:
    """How often each kind of block runs, blocks being of one kind if they have one row, [kinds]."""
    counts: dict[str, int] = {}
    for block in table.space.blocks:
        name = block.signature(table.workload)
        counts[name] = counts.get(name, 0) + architecture.runs(block)
    return list(counts.values())


def random_forest() -> Any:
    """scikit-learn's class.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from sklearn.ensemble import RandomForestRegressor
    except ImportError as error:
        raise MissingExtraError("scikit-learn is not installed; pip install 'nas[benchmarks]'") from error
    return RandomForestRegressor


# What is reported.


def described(table: LatencyTable, build_seconds: float, *, resumed: bool = False) -> dict[str, Any]:
    """What was measured how and in what time; a validation that the table has by now is part of that.

    What is `resumed` was measured in part before, and the time is that of the rest.
    """
    full_ms, loading_seconds = table.latency_ms(table.space.full), float(table.provenance["loading_seconds"])
    return {
        "space": table.space.name,
        "device": table.device,
        "workload": table.workload.describe(),
        "machine": dict(table.provenance),
        "rows": len(table.rows),
        "canary_spread": round(table.provenance["canary_spread_ms"] / table.provenance["canary_ms"], 3),
        "base_ms": table.base_ms,
        "full_ms": full_ms,
        "weights_gib": round(weights_gib(table.space, table.workload.precision), 3),
        "together": table.validation is not None,
        "resumed": resumed,
        "build_seconds": round(build_seconds, 1),
        "loading_seconds": round(loading_seconds, 1),
        "build_forward_passes": round(1000 * build_seconds / full_ms, 1),
        "build_forward_passes_without_loading": round(1000 * (build_seconds - loading_seconds) / full_ms, 1),
        "build_peak_gib": peak_gib(),
    }


def peak_gib() -> float | None:
    """The most memory that this process has had so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    # KiB on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)


def report(results: list[dict[str, Any]]) -> str:
    return "\n".join(text for result in results for text in ("", *heading(result), *errors(result)))


def heading(result: dict[str, Any]) -> list[str]:
    machine, peak = result["machine"], result["build_peak_gib"]
    runtime = next((name for name in ("onnxruntime", "openvino", "torch") if name in machine), "")
    memory = (
        "" if peak is None else f", peak memory {peak:.2f} GiB (the network's weights: {result['weights_gib']:.2f})"
    )
    what = "built along with the held-out networks" if result["together"] else "built"
    if result["resumed"]:
        what = f"resumed (times are of the last part only), {what}"
    return [
        f"{result['space']}: {result['workload']}, {result['device']} on {machine['hardware']}, "
        f"{machine.get('cores', '?')} cores, {machine['threads']} threads, {runtime} {machine.get(runtime, '')}",
        f"base {result['base_ms']:.1f} ms, full {result['full_ms']:.1f} ms; {result['rows']} rows, "
        f"the middle half of the canary's times {result['canary_spread']:.1%} apart",
        f"{what} in {result['build_seconds']} s, {result['build_forward_passes']} forward passes; without the "
        f"{result['loading_seconds']} s of export, compilation, copying and first runs "
        f"{result['build_forward_passes_without_loading']}{memory}",
    ]


def errors(result: dict[str, Any]) -> list[str]:
    if "networks" not in result:
        return ["not validated"]
    title = f"{'':<24}{'networks':>9}{'mean':>8}{'worst':>8}{'in 5 %':>8}{'in 10 %':>8}{'Spearman':>10}"
    lines = [title, *(line(name, result[method]) for method, name in METHODS.items())]
    if result["slowdown"] is None:
        return lines
    change = f"{abs(result['slowdown']):.1%} {'slower' if result['slowdown'] >= 0 else 'faster'}"
    lines.append(f"the full network was {change} meanwhile than for the table; with that allowed for")
    return [*lines, line("table, at equal speed", result["at_equal_speed"])]


def line(title: str, found: dict[str, Any] | None) -> str:
    if found is None:
        return f"{title:<24}{'n/a':>9}"
    shares = "".join(f"{found[name]:>8.1%}" for name in ("mean_error", "worst_error", "within_5", "within_10"))
    return f"{title:<24}{found['networks']:>9}{shares}{found['spearman']:>10.3f}"


if __name__ == "__main__":
    sys.exit(main())
