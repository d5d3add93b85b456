"""`nas evaluate`: quality of finished models against guidance, side by side."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas._prompts import read_prompts
from nas.cli._options import add_command, add_compute_on, add_seed
from nas.cli._report import Report, columns
from nas.cli._values import count, numbers
from nas.errors import NasError

if TYPE_CHECKING:
    import numpy as np

    from nas.quality import Evaluation, Model

RESULT = "evaluation.json"
_MEASURES = {"clip_score": "CLIP score", "kid": "KID (CLIP)", "cmmd": "CMMD", "fid": "FID"}
_SCHEDULERS = {"ddim": "", "dpm++": ", DPM-Solver++", "own": ", its own scheduler"}


def add_to(commands: Any) -> None:
    """Add `nas evaluate`."""
    summary = "CLIP score and distance from real pictures against guidance, of one or several pipelines."
    parser = add_command(commands, "evaluate", _evaluate, summary, resumes=True)
    parser.add_argument("models", nargs="+", type=Path, metavar="DIR", help="diffusers pipelines to compare, or one")
    prompts = "prompts: text, one a line, or JSON (default: captions/test.json in the first pipeline)"
    parser.add_argument("--prompts", type=Path, metavar="FILE", help=prompts)
    parser.add_argument("--max-prompts", type=count, default=256, metavar="N", help="how many of them (default: 256)")
    real = "folder of real pictures (default: those that come with a bundled pipeline, pictures/test.png)"
    parser.add_argument("--real", type=Path, metavar="DIR", help=real)
    scales = "guidance: FROM:TO:STEP, or numbers with commas (default: 1:10:0.5)"
    parser.add_argument("--guidance", type=numbers, default="1:10:0.5", metavar="W", help=scales)
    each = "one for all pipelines or one for each"
    parser.add_argument("--steps", nargs="+", type=count, default=[50], metavar="N", help=f"{each} (default: 50)")
    schedulers = f"ddim, dpm++ (DPM-Solver++) or own (the pipeline's), {each} (default: ddim)"
    parser.add_argument("--scheduler", nargs="+", default=["ddim"], choices=_SCHEDULERS, help=schedulers)
    parser.add_argument("--clip", type=Path, metavar="DIR", help="CLIP (default: clip/ in the first pipeline)")
    inception = "TorchScript network from pictures (0 to 1) to features, for FID"
    parser.add_argument("--inception", type=Path, metavar="FILE", help=inception)
    parser.add_argument("--batch-size", type=count, default=32, metavar="N", help="prompts at a time (default: 32)")
    out = "folder; an interrupted run goes on (default: quality)"
    parser.add_argument("--out", type=Path, default=Path("quality"), metavar="DIR", help=out)
    add_compute_on(parser)
    add_seed(parser)


def _evaluate(options: argparse.Namespace) -> Report:
    from nas._files import require_writable
    from nas.pipelines import quiet_libraries
    from nas.quality import evaluate

    require_writable(options.out / RESULT)
    with quiet_libraries():
        result = evaluate(
            _models(options),
            prompts=_prompts(options),
            real=_real(options),
            guidance_scales=options.guidance,
            clip=options.clip,
            inception=options.inception,
            seed=options.seed,
            batch_size=options.batch_size,
            compute_on=options.compute_on,
            workdir=options.out,
        )
    result.save(options.out / RESULT)
    files = [options.out / RESULT, *_draw(result, options.out)]
    return Report(_document(result, files), _text(result, files))


def _models(options: argparse.Namespace) -> dict[str, Model]:
    from nas.quality import Model

    number = len(options.models)
    steps, schedulers = _each(options.steps, number, "--steps"), _each(options.scheduler, number, "--scheduler")
    names = _names(options.models, [_suffix(*how) for how in zip(steps, schedulers, strict=True)])
    parts = zip(names, options.models, steps, schedulers, strict=True)
    return {name: Model(folder, steps=n, scheduler=kind) for name, folder, n, kind in parts}


def _suffix(steps: int, scheduler: str) -> str:
    return f", {steps} {'step' if steps == 1 else 'steps'}{_SCHEDULERS[scheduler]}"


def _each(values: list[Any], number: int, option: str) -> list[Any]:
    if len(values) not in (1, number):
        raise NasError(f"{option} has {len(values)} values for {number} pipelines; give one for all or one for each")
    return values * number if len(values) == 1 else values


def _names(folders: list[Path], suffixes: list[str]) -> list[str]:
    """What curves are called: the folder's name, or all of its path where two would be called alike."""
    for called in (lambda folder: folder.resolve().name, str):
        names = [called(folder) + suffix for folder, suffix in zip(folders, suffixes, strict=True)]
        name, times = Counter(names).most_common(1)[0]
        if times == 1:
            return names
    raise NasError(f"{name} is there {times} times; give each pipeline once, or with other steps or schedulers")


def _prompts(options: argparse.Namespace) -> list[str]:
    file = options.prompts or options.models[0] / "captions" / "test.json"
    return read_prompts(file, option="--prompts", count=options.max_prompts, seed=options.seed)


def _real(options: argparse.Namespace) -> Path | np.ndarray:
    from nas.quality import read_sheet

    if options.real is not None:
        return options.real
    if not (options.models[0] / "pictures" / "test.png").is_file():
        raise NasError(f"{options.models[0]} comes without real pictures; name a folder of them with --real")
    return read_sheet(options.models[0], "test")


def _draw(result: Evaluation, folder: Path) -> list[Path]:
    from nas._files import replacing
    from nas.plots import plot_quality

    files = [folder / f"{name}.png" for name in _measures(result) if name != "clip_score"]
    for file in files:
        with replacing(file) as temporary:
            plot_quality(result, distance=file.stem).savefig(temporary, format="png")
    return files


def _measures(result: Evaluation) -> list[str]:
    return [name for name in _MEASURES if name in result.to_frame()]


def _document(result: Evaluation, files: list[Path]) -> dict[str, Any]:
    return {**result.to_dict(), "files": files}


def _text(result: Evaluation, files: list[Path]) -> str:
    names = _measures(result)
    rows = [
        (point["model"], f"{point['guidance_scale']:g}", *(_with_interval(point, name) for name in names))
        for point in result.to_frame().to_dict("records")
    ]
    judged = result.judged_by
    note = f"± 95 % interval; {judged['prompts']} prompts, {judged['real_pictures']} real pictures"
    diverged = {point.model for point in result.points if point.diverged}
    warning = [f"pictures that were not finite: {', '.join(sorted(diverged))}"] if diverged else []
    table = columns(rows, header=("", "guidance", *(_MEASURES[name] for name in names)))
    return "\n".join([table, note, *warning, "", *map(str, files)])


def _with_interval(point: dict[str, Any], name: str) -> str:
    digits = 4 if name in ("clip_score", "kid") else 3
    return f"{point[name]:.{digits}f} ±{point[f'{name}_high'] - point[name]:.{digits}f}"
