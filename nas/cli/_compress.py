"""`nas compress`: a pipeline of many steps becomes one of few, by a recipe."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli._options import add_command
from nas.cli._report import Report, columns
from nas.errors import NasError

if TYPE_CHECKING:
    from nas.compression import Compression
    from nas.latency import ImageLatency

_HEADER = ("", "seconds", "training steps", "image ms", "UNet ms", "runs", "UNet M", "decoder M", "CLIP score", "gain")
_NAMES = {"plan": "as it was"}


def add_to(commands: Any) -> None:
    """Add `nas compress`."""
    summary = "Compress a pipeline by a recipe: robust training, evolution, decoder, step distillation, evaluation."
    parser = add_command(commands, "compress", _compress, summary, resumes=True)
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="the recipe, in YAML")
    out = "folder; an interrupted run goes on (default: the recipe's)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=out)


def _compress(options: argparse.Namespace) -> Report:
    from nas.compression import follow, load_recipe
    from nas.pipelines import quiet_libraries

    recipe = load_recipe(options.config, **({"out": options.out} if options.out else {}))
    if not isinstance(recipe.pipeline, str):
        raise NasError(f"{options.config}: pipeline is {recipe.pipeline!r}; it must be a folder, or a bundled name")
    with quiet_libraries():
        result = follow(recipe)
    files = _files(result)
    return Report({**result.to_dict(), "files": files}, _text(result, files))


def _files(result: Compression) -> list[Path]:
    from nas._files import replacing

    files = [result.pipeline, result.report]
    if result.evaluation is not None:
        from nas.plots import plot_quality

        files.append(result.folder / "quality.png")
        with replacing(files[-1]) as temporary:
            plot_quality(result.evaluation).savefig(temporary, format="png")
    return files


def _text(result: Compression, files: list[Path]) -> str:
    parts = [columns([_line(row) for row in result.to_frame().itertuples()], header=_HEADER)]
    parts.append("gain: of CLIP score against the pipeline as it was, prompt by prompt; ± 95 % intervals")
    if result.unet_budget_ms is not None:
        parts.append(
            f"budget: an image in {result.image_budget_ms:.2f} ms, which leaves {result.unet_budget_ms:.2f} ms for one "
            "run of the UNet; latencies above are the table's for the UNet and measured for everything else"
        )
    if result.before is not None and result.after is not None:
        parts.append(_images(result.before, result.after))
        parts.append(f"an image, measured part by part: {result.speedup:.1f} times faster")
    if result.within_budget is False:
        over = result.after.total_ms / result.image_budget_ms - 1
        parts.append(
            f"the budget is missed: an image takes {result.after.total_ms:.2f} ms, {over:.1%} more than asked for; "
            "the table or the plan is of a time when the device was faster, or predicts this network too low"
        )
    return "\n\n".join([*parts, "\n".join(map(str, files))])


def _line(row: Any) -> tuple[str, ...]:
    return (
        _NAMES.get(row.stage, row.stage.replace("_", " ")),
        f"{row.seconds:.0f}",
        str(row.training_steps),
        f"{row.image_ms:.2f}",
        f"{row.unet_ms:.2f}",
        str(row.unet_runs),
        f"{row.unet_parameters / 1e6:.2f}",
        f"{row.decoder_parameters / 1e6:.2f}",
        _with_reach(row.clip_score, row.clip_score_high),
        "" if row.stage == "plan" else _with_reach(row.clip_score_gain, row.clip_score_gain_high, sign="+"),
    )


def _with_reach(value: float, high: float | None, *, sign: str = "") -> str:
    # With a single prompt there is no interval.
    return f"{value:{sign}.4f}" + ("" if high is None or math.isnan(high) else f" ±{high - value:.4f}")


def _images(before: ImageLatency, after: ImageLatency) -> str:
    """The shares of an image's parts, before and after."""
    rows = [
        (was.component, f"{was.total_ms:.2f}", f"{was.share:.1%}", f"{now.total_ms:.2f}", f"{now.share:.1%}")
        for was, now in zip(before.breakdown().itertuples(), after.breakdown().itertuples(), strict=True)
    ]
    rows.append(("the image", f"{before.total_ms:.2f}", "", f"{after.total_ms:.2f}", ""))
    return columns(rows, header=("", "before ms", "share", "after ms", "share"))
