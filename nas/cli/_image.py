"""`nas image`: what a whole image takes, and what that leaves for the UNet."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nas.cli._options import add_command
from nas.cli._report import Report, columns
from nas.cli._values import milliseconds

if TYPE_CHECKING:
    from nas.latency import ImageLatency

_HEADER = ("part", "ms a run", "runs", "ms", "share")


def add_to(commands: Any) -> None:
    """Add the subcommands of `nas image`."""
    image = commands.add_parser("image", help="the latency of a whole image, part by part", allow_abbrev=False)
    actions = image.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = add_command(actions, "show", _show, "Print what text encoder, UNet and decoder take of an image.")
    show.add_argument("file", metavar="FILE", help="a file of ImageLatency.save, or a name of published figures")
    show.add_argument("--budget-ms", type=milliseconds, metavar="MS", help="of the image: say what it leaves the UNet")


def _show(options: argparse.Namespace) -> Report:
    from nas.latency import ImageLatency

    image = ImageLatency.load(options.file)
    unet_budget_ms = None if options.budget_ms is None else image.unet_budget_ms(options.budget_ms)
    document = {
        "origin": image.origin,
        "total_ms": image.total_ms,
        "reported_total_ms": image.reported_total_ms,
        "total_error": image.total_error,
        "steps": image.steps,
        "unet_batch_size": image.unet_batch_size,
        "parts": image.breakdown().to_dict("records"),
        "budget_ms": options.budget_ms,
        "unet_budget_ms": unet_budget_ms,
        "provenance": image.provenance,
    }
    return Report(document, _text(image, options.budget_ms, unet_budget_ms))


def _text(image: ImageLatency, budget_ms: float | None, unet_budget_ms: float | None) -> str:
    rows = [
        (line.component, f"{line.ms:.2f}", line.runs, f"{line.total_ms:.2f}", f"{line.share:.1%}")
        for line in image.breakdown().itertuples()
    ]
    rows.append(("the image", "", "", f"{image.total_ms:.2f}", f"{1:.1%}"))
    parts = [
        f"{image.origin}; {image.steps} steps, {_passes(image)}",
        columns(image.provenance.items()),
        columns(rows, header=_HEADER),
    ]
    if image.reported_total_ms is not None:
        parts.append(
            f"reported for the whole: {image.reported_total_ms:.2f} ms; the sum is {image.total_error:+.1%} off"
        )
    if unet_budget_ms is not None:
        what = "one step" if image.unet_batch_size is None else "one run"
        parts.append(f"for an image in {budget_ms:.2f} ms, {what} of the UNet may take {unet_budget_ms:.2f} ms")
    return "\n\n".join(part for part in parts if part)


def _passes(image: ImageLatency) -> str:
    if image.unet_batch_size is None:
        return "the UNet's batch not known"
    runs = image.unet_runs_per_step
    return f"each {runs} UNet run{'s' if runs > 1 else ''} of batch {image.unet_batch_size}"
