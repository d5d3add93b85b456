"""`nas lut`: build, show, compare and validate latency tables; `_kit` has those for devices elsewhere."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli import _kit
from nas.cli._lut_reports import (
    breakdown_text,
    difference_document,
    difference_text,
    validation_document,
    validation_text,
)
from nas.cli._options import add_command, add_networks, add_seed, add_workload
from nas.cli._report import Report, columns
from nas.cli._values import count

if TYPE_CHECKING:
    from nas.latency import LatencyTable

# As in `nas.latency.devices.device_names()`, written again because importing that takes longer than parsing.
DEVICES = (
    "torch-cpu",
    "torch-cuda",
    "torch-mps",
    "torch-cpu-compiled",
    "torch-mps-compiled",
    "torch-cuda-compiled",
    "torch-cuda-graph",
    "onnxruntime-cpu",
    "openvino-cpu",
    *(f"coreml-{unit}" for unit in _kit.UNITS),
    *(f"coreml-{phone}-{unit}" for phone in _kit.PHONES for unit in _kit.UNITS),
    "coreai-cpu",
)


def add_to(commands: Any) -> None:
    """Add the subcommands of `nas lut`."""
    lut = commands.add_parser("lut", help="lookup tables of block latencies", allow_abbrev=False)
    actions = lut.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_build(actions)
    show = add_command(
        actions,
        "show",
        _show,
        "Print a table: where the time goes, its rows, where it was measured, how well it predicts.",
    )
    _add_file(show)
    show.add_argument("--plot", type=Path, metavar="FILE.png", help="draw where the time goes into this file")
    diff = add_command(
        actions, "diff", _diff, "Compare two tables of one search space: which blocks are relatively dearer on B."
    )
    _add_file(diff, "a", "A")
    _add_file(diff, "b", "B")
    validate = add_command(
        actions,
        "validate",
        _validate,
        "Time random networks on this machine, store how far off the table is, and say whether the machine still "
        "agrees with it: nine of ten networks predicted within a tenth, the full one within a tenth of its time then. "
        "Goes on where it was interrupted. Of a table that comes along the errors are printed only; nor do they "
        "replace a stored validation where the machine is not as fast as it was for the table.",
        resumes=True,
    )
    _add_file(validate)
    validate.add_argument("--networks", type=count, default=20, metavar="N", help="how many networks (default: 20)")
    add_seed(validate)
    _kit.add_to(actions)


def _add_build(actions: Any) -> None:
    build = add_command(
        actions,
        "build",
        _build,
        "Measure every kind of block of a search space on this machine; goes on where it was interrupted.",
        resumes=True,
    )
    build.add_argument("--space", required=True, help="sd15, sd21, sdxl, emoji, or a search space's YAML file")
    build.add_argument("--device", default="torch-cpu", help=f"{', '.join(DEVICES)} (default: torch-cpu)")
    add_workload(build, precision="fp32, for Core ML fp16")
    build.add_argument("--threads", type=count, metavar="N", help="CPU threads (default: torch's own choice)")
    add_networks(build, whole_networks=5)
    build.add_argument("--out", required=True, type=Path, metavar="FILE", help="the YAML file to write")


def _add_file(parser: argparse.ArgumentParser, name: str = "file", metavar: str = "FILE") -> None:
    parser.add_argument(name, metavar=metavar, help="a table's YAML file, or the name of a bundled table")


def _build(options: argparse.Namespace) -> Report:
    from nas._files import require_writable, unfinished_beside
    from nas.latency import LatencyTable
    from nas.search_space import SearchSpace

    require_writable(options.out)
    with unfinished_beside(options.out, "visits") as visits:
        lut = LatencyTable.measure(
            SearchSpace.load(options.space),
            device=options.device,
            batch_size=options.batch_size,
            height=options.height,
            width=options.width,
            precision=options.precision,
            threads=options.threads,
            whole_networks=options.whole_networks,
            held_out=options.held_out,
            seed=options.seed,
            visits=visits,
        )
        lut.save(options.out)
    document = {"file": options.out, **_document(lut)}
    return Report(document, f"{_text(lut)}\n\nwritten to {options.out}")


def _show(options: argparse.Namespace) -> Report:
    from nas.latency import LatencyTable, breakdown

    lut = LatencyTable.load(options.file)
    parts = breakdown(lut)
    document = {**_document(lut), "breakdown": [vars(part) for part in parts]}
    text = f"{breakdown_text(lut, parts)}\n\n{_text(lut)}"
    if options.plot:
        _plot(lut, options.plot)
        document["plot"], text = options.plot, f"{text}\n\ndrawn into {options.plot}"
    return Report(document, text)


def _plot(lut: LatencyTable, path: Path) -> None:
    from nas._files import replacing
    from nas.plots import plot_breakdown

    with replacing(path) as temporary:
        plot_breakdown(lut).savefig(temporary, format="png")


def _diff(options: argparse.Namespace) -> Report:
    from nas.latency import LatencyTable, difference

    found = difference(LatencyTable.load(options.a), LatencyTable.load(options.b))
    names = options.a, options.b
    return Report(difference_document(*names, found), difference_text(*names, found))


def _validate(options: argparse.Namespace) -> Report:
    from nas._files import require_writable, unfinished_beside
    from nas.latency import LatencyTable, agreement

    lut, is_file = LatencyTable.load(options.file), Path(options.file).is_file()
    validated = lut.validation is not None
    if is_file:
        require_writable(options.file)
    with unfinished_beside(options.file, "validation") if is_file else nullcontext() as visits:
        validation = lut.validate(networks=options.networks, seed=options.seed, visits=visits)
        judged = agreement(lut)
        # What another machine says, or this one while it is busy, is better than nothing only.
        stored = is_file and (judged.steady or not validated)
        if stored:
            lut.save(options.file)
    document = validation_document(validation)
    document |= {"networks": options.networks, "seed": options.seed}
    document |= {"agrees": judged.agrees, "drift": judged.drift, "verdict": str(judged)}
    document |= {"mean_error_at_equal_speed": judged.mean_error_at_equal_speed}
    document["stored"] = stored
    kept = "" if stored or not is_file else f"\n{options.file} keeps the validation that it had"
    return Report(document, f"{validation_text(validation)}\n{judged}{kept}")


def _document(lut: LatencyTable) -> dict[str, Any]:
    return {
        "space": lut.space.name,
        "workload": vars(lut.workload),
        "full_ms": lut.latency_ms(lut.space.full),
        "base_ms": lut.base_ms,
        "in_context": lut.in_context,
        "rows": {signature: vars(row) for signature, row in lut.rows.items()},
        "provenance": lut.provenance,
        "validation": lut.validation and validation_document(lut.validation),
    }


def _text(lut: LatencyTable) -> str:
    rows = [
        (signature, f"{row.latency_ms:.3f}", f"{row.spread_ms:.3f}", row.count) for signature, row in lut.rows.items()
    ]
    base = lut.base
    what = "base: the network with every block skipped"
    rows.append((what, f"{base.latency_ms:.3f}", f"{base.spread_ms:.3f}", base.count))
    parts = [
        f"{lut.space.name}, {lut.workload.describe()}",
        columns(((name, value) for name, value in lut.provenance.items())),
        columns(rows, header=("row", "ms", "spread ms", "runs")),
        f"full network: {lut.latency_ms(lut.space.full):.2f} ms, blocks in it {lut.in_context:.3f} times their rows",
        validation_text(lut.validation)
        if lut.validation
        else "not validated on whole networks yet: nas lut validate FILE",
    ]
    return "\n\n".join(parts)
