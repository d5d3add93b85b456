"""`nas demo`: the whole job on the bundled model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas.cli._options import add_command
from nas.cli._report import Report, columns
from nas.cli._values import Budget, budget


def add_to(commands: Any) -> None:
    """Add `nas demo`."""
    parser = add_command(
        commands, "demo", _demo, "Evolve the bundled text-to-image model to a budget on this machine.", resumes=True
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="folder for the results (default: demo)"
    )
    parser.add_argument(
        "--budget",
        type=budget,
        default=Budget(0.6, relative=True),
        metavar="B",
        help="share of the full network's latency, such as 60%%, or milliseconds, such as 12.5ms (default: 60%%)",
    )


def _demo(options: argparse.Namespace) -> Report:
    from nas import demo

    share = options.budget.amount if options.budget.relative else None
    budget_ms = None if options.budget.relative else options.budget.amount
    summary = demo.run(options.out, budget_share=share, budget_ms=budget_ms)
    files = [options.out / name for name in (demo.SUMMARY, demo.PICTURES, demo.PARETO, demo.LUT, demo.UNET)]
    return Report(summary, f"{_table(summary)}\n\n" + "\n".join(str(file) for file in files))


def _table(summary: Mapping[str, Any]) -> str:
    rows = [
        *_predicted(summary),
        ("latency measured (ms)", f"{summary['full_measured_ms']:.2f}", f"{summary['measured_ms']:.2f}"),
        ("CLIP score, unseen captions", f"{summary['clip_full']:.4f}", f"{summary['clip_evolved']:.4f}"),
        ("weights (M)", f"{summary['parameters_full'] / 1e6:.2f}", f"{summary['parameters_evolved'] / 1e6:.2f}"),
    ]
    low, high = summary["clip_difference_interval"]
    return "\n".join(
        [
            columns(rows, header=("", "full", "evolved")),
            f"budget: {summary['budget_ms']:.2f} ms, {summary['budget_ms'] / summary['full_ms']:.0%} of the full one's",
            f"CLIP score difference: {summary['clip_difference']:+.4f} (95 % interval {low:+.4f} to {high:+.4f})",
            f"removed: {', '.join(summary['removed']) or 'nothing'}",
            f"added: {', '.join(summary['added']) or 'nothing'}",
            f"prediction off by {summary['prediction_error']:+.1%}",
            f"took {summary['seconds']:.0f} s",
        ]
    )


def _predicted(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    def row(name: str, full_ms: float, evolved_ms: float) -> tuple[str, str, str]:
        return name, f"{full_ms:.2f}", f"{evolved_ms:.2f}"

    by_table = row("latency by the table (ms)", summary["full_by_table_ms"], summary["predicted_by_table_ms"])
    if not (slowdown := summary["slowdown"]):
        return [by_table]
    since = f"  machine {abs(slowdown):.1%} {'slower' if slowdown > 0 else 'faster'} since"
    return [by_table, row(since, summary["full_ms"], summary["predicted_ms"])]
