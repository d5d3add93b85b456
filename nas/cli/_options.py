"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from nas.cli._report import Report
from nas.cli._values import count, natural


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], Report], summary: str, *, resumes: bool = False
) -> Any:
    """A subcommand that calls `run`, with the options that every command has.

    `resumes` says whether the same command goes on where it was interrupted.
    """
    parser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parser.set_defaults(run=run, resumes=resumes)
    return parser


def add_workload(parser: argparse.ArgumentParser, *, precision: str) -> None:
    """What a latency is measured for; `precision` says what it is when nobody does."""
    parser.add_argument(
        "--batch-size", type=count, default=2, metavar="N", help="samples a step; 2 for one guided picture"
    )
    parser.add_argument("--height", type=count, metavar="N", help="rows of the latent (default: the space's own)")
    parser.add_argument("--width", type=count, metavar="N", help="columns of the latent (default: the space's own)")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), help=f"default: {precision}")


def add_networks(parser: argparse.ArgumentParser, *, whole_networks: int) -> None:
    """How many networks a table measures end to end, to know more and to be held against."""
    parser.add_argument(
        "--whole-networks",
        type=natural,
        default=whole_networks,
        metavar="N",
        help="networks to measure end to end, the full one first, which say what blocks take in context; none of "
        f"models above 4 GiB, and 0 where there is no room for the network (default: {whole_networks})",
    )
    parser.add_argument(
        "--held-out",
        type=natural,
        default=0,
        metavar="N",
        help="random networks to measure end to end in turns with the blocks, to say how well the table predicts them "
        "(default: 0; `nas lut validate` measures them afterwards)",
    )
    add_seed(parser)


def add_compute_on(parser: argparse.ArgumentParser) -> None:
    """Where networks compute; latencies are the table's device's, wherever that is."""
    parser.add_argument(
        "--compute-on", metavar="DEVICE", help="cuda or mps: draw, judge and train there (default: CPU)"
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Where all randomness comes from."""
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="where all randomness comes from")
