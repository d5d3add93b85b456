"""The whole job on the bundled model: measure a table, evolve to a budget, judge on captions that the search never saw.

A folder that holds an interrupted run is gone on with; what was finished is not done again.
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas._files import replacing, unfinished_beside, write_text_atomically
from nas._progress import say
from nas.errors import BudgetError
from nas.latency import LatencyTable, Timing
from nas.pipelines import load_pipeline, load_unet, quiet_libraries
from nas.plots import plot_pareto, plot_pictures
from nas.quality import Clip, ClipScore, Score, load_captions
from nas.resources import bundled
from nas.search import Evolution, evolve
from nas.search_space import SearchSpace
from nas.supernet import Supernet
from nas.training import TrainingData, synthetic_data

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from matplotlib.figure import Figure

MODEL = "emoji"
LUT, UNET, SUMMARY, PARETO, PICTURES = "lut.yaml", "unet", "summary.json", "pareto.png", "before_after.png"
LATENTS = "latents.safetensors"


@dataclass(frozen=True)
class Settings:
    """What decides the demo's quality and its length.

    Attributes:
        search_prompts: validation captions that the search judges candidates with.
        report_prompts: test captions that the summary judges with.
        picture_prompts: captions drawn in the picture, half of them from training, half from test.
        search_steps: DDIM steps of the pictures that the search judges by.
        sampling_steps: DDIM steps of all other pictures.
        guidance_scale: guidance of every picture.
        data_prompts: training captions for which the teacher samples the latents that the evolved network learns from.
        probe_steps: distillation steps of each candidate before it is judged.
        train_steps: robust training steps between rounds.
        final_steps: distillation steps of the network found.
        batch_size: samples a training step.
        learning_rate: of all training.
        ema_decay: of the averaged weights that training ends with.
        group_size: how much is done in a round, see `nas.evolve`.
        candidates: how many candidates are judged anew in a round, see `nas.evolve`.
        first_look: how many prompts candidates are judged by at first, see `nas.evolve`.
        seed: where all randomness comes from.
        timing: how long to measure.
    """

    search_prompts: int = 64
    search_steps: int = 4
    report_prompts: int = 64
    picture_prompts: int = 10
    sampling_steps: int = 10
    guidance_scale: float = 5.0
    data_prompts: int = 80
    probe_steps: int = 0
    train_steps: int = 0
    final_steps: int = 150
    batch_size: int = 16
    learning_rate: float = 1e-3
    ema_decay: float = 0.98
    group_size: int | float = 0.5
    candidates: int | None = 6
    first_look: int | None = 24
    seed: int = 0
    timing: Timing = field(
        default_factory=lambda: Timing(min_seconds=0.5, max_seconds=1.0, passes=3, extra_seconds=20.0)
    )

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.probe_steps + self.train_steps + self.final_steps > 0


# Everything once and as little as possible: whether it runs, not what it finds.
SMOKE = Settings(
    search_prompts=2,
    report_prompts=2,
    picture_prompts=2,
    search_steps=1,
    sampling_steps=1,
    data_prompts=2,
    final_steps=1,
    batch_size=2,
    candidates=1,
    first_look=None,
    group_size=1.0,
    timing=Timing(
        min_repeats=3,
        max_repeats=3,
        min_seconds=0,
        max_seconds=0,
        sample_ms=0,
        warm_up_ms=0,
        extra_seconds=0,
        passes=1,
    ),
)


def run(
    out: Path,
    *,
    budget_share: float | None = 0.6,
    budget_ms: float | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Evolve the bundled model and write table, journal, network, plots and summary into a folder.

    Args:
        out: the folder; made if it is not there, gone on with if it holds an interrupted run of the same settings.
        budget_share: the budget as a share of the full network's latency, or
        budget_ms: the budget in milliseconds.
        settings: quality and length.

    Returns:
        The summary, as in `summary.json`. A machine may have become slower or faster since the table was measured, by
        `slowdown`: by what fraction the full network took longer when it was measured in turns with the result.
        `full_ms` and `predicted_ms` are the table's predictions at the speed of then, and so is `budget_ms` where it
        was asked for as a share; `full_by_table_ms` and `predicted_by_table_ms` are what the table says itself.

    Raises:
        BudgetError: the budget cannot be met.
        SearchError: the folder holds a run with other settings.
        StorageError: the folder cannot be written.
    """
    started = time.perf_counter()
    with quiet_libraries():
        job = _Job(out, settings or Settings())
        say("1/4 Measuring what each block costs on this machine")
        lut = job.table()
        budget_ms = _budget(lut, budget_share, budget_ms)
        say(f"2/4 Evolving from {lut.latency_ms(lut.space.full):.2f} ms to {budget_ms:.2f} ms")
        result = job.evolve(lut, budget_ms)
        say("3/4 Judging the full and the evolved network on captions that the search never saw")
        judge = job.judge("test", job.settings.report_prompts, job.settings.sampling_steps)
        before, after = judge(job.pipe.unet), judge(result.unet)
        say("4/4 Drawing")
        job.draw(result, judge)
        found = _summary(result, lut, before, after, job.settings, seconds=time.perf_counter() - started)
        summary = _latencies(result, budget_share) | found
        write_text_atomically(out / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary


@dataclass
class _Job:
    """The bundled model, and where everything goes."""

    out: Path
    settings: Settings

    @cached_property
    def pipe(self) -> StableDiffusionPipeline:
        return load_pipeline(bundled(MODEL))

    @cached_property
    def clip(self) -> Clip:
        return Clip.load(bundled(MODEL) / "clip")

    def table(self) -> LatencyTable:
        path = self.out / LUT
        if path.is_file():
            return LatencyTable.load(path)
        length = self.pipe.tokenizer.model_max_length
        space = SearchSpace.from_unet(self.pipe.unet, name=MODEL, context_length=length)
        options = {"device": "torch-cpu", "batch_size": 2, "timing": self.settings.timing}
        with unfinished_beside(path, "visits") as visits:
            lut = LatencyTable.measure(space, **options, visits=visits)
            lut.save(path)
        return lut

    def evolve(self, lut: LatencyTable, budget_ms: float) -> Evolution:
        settings = self.settings
        # Evolution starts from the weights that were trained to tolerate skipping; the stock ones are the teacher.
        robust = load_unet(bundled(MODEL) / "unet_robust")
        result = evolve(
            Supernet(robust, lut.space, seed=settings.seed),
            lut,
            budget_ms=budget_ms,
            scorer=self.judge("validation", settings.search_prompts, settings.search_steps),
            workdir=self.out,
            seed=settings.seed,
            data=self._data() if settings.trains else None,
            teacher=self.pipe.unet,
            scheduler=self.pipe.scheduler,
            probe_steps=settings.probe_steps,
            train_steps=settings.train_steps,
            final_steps=settings.final_steps,
            training={name: getattr(settings, name) for name in ("batch_size", "learning_rate", "ema_decay")},
            group_size=settings.group_size,
            candidates=settings.candidates,
            first_look=settings.first_look,
        )
        with replacing(self.out / UNET) as folder:
            result.unet.save_pretrained(folder)
        return result

    def _data(self) -> TrainingData:
        return synthetic_data(
            self.pipe,
            self._captions("train", self.settings.data_prompts),
            steps=self.settings.sampling_steps,
            guidance_scale=self.settings.guidance_scale,
            seed=self.settings.seed,
            path=self.out / LATENTS,
        )

    def judge(self, split: str, prompts: int, steps: int) -> ClipScore:
        return ClipScore(
            self.pipe,
            clip=self.clip,
            prompts=self._captions(split, prompts),
            steps=steps,
            guidance_scale=self.settings.guidance_scale,
            seed=self.settings.seed,
        )

    def draw(self, result: Evolution, judge: ClipScore) -> None:
        half = self.settings.picture_prompts // 2
        prompts = self._captions("train", half) + self._captions("test", half)
        networks = {"full": self.pipe.unet, "evolved": result.unet}
        pictures = {name: judge.images(network, prompts) for name, network in networks.items()}
        titles = ("concepts trained on", "concepts never seen")
        _save_figure(plot_pictures(pictures, prompts, group_titles=titles), self.out / PICTURES)
        _save_figure(plot_pareto(result, score_label="CLIP score"), self.out / PARETO)

    def _captions(self, split: str, count: int) -> list[str]:
        return load_captions(MODEL, split, count=count, seed=self.settings.seed, drawn_only=split == "train")


def _budget(lut: LatencyTable, share: float | None, budget_ms: float | None) -> float:
    if (share is None) == (budget_ms is None):
        raise BudgetError("give the budget either as a share of the full network's latency or in milliseconds")
    return budget_ms if budget_ms is not None else share * lut.latency_ms(lut.space.full)


def _save_figure(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _latencies(result: Evolution, budget_share: float | None) -> dict[str, float | None]:
    """The figures in ms, at the speed that the machine had when the result was measured."""
    speed = 1 + (result.slowdown or 0.0)
    predicted_ms = result.predicted_ms * speed
    return {
        "full_ms": result.predicted_full_ms * speed,
        "full_by_table_ms": result.predicted_full_ms,
        "full_measured_ms": result.full_ms,
        "budget_ms": result.budget_ms if budget_share is None else result.budget_ms * speed,
        "predicted_ms": predicted_ms,
        "predicted_by_table_ms": result.predicted_ms,
        "measured_ms": result.measured_ms,
        "prediction_error": predicted_ms / result.measured_ms - 1,
        "slowdown": result.slowdown,
    }


def _summary(
    result: Evolution, lut: LatencyTable, before: Score, after: Score, settings: Settings, *, seconds: float
) -> dict[str, Any]:
    difference = after.minus(before)
    return {
        "clip_full": before.mean,
        "clip_full_interval": [before.low, before.high],
        "clip_evolved": after.mean,
        "clip_evolved_interval": [after.low, after.high],
        "clip_difference": difference.mean,
        "clip_difference_interval": [difference.low, difference.high],
        "removed": list(result.removed),
        "added": list(result.added),
        "architecture": str(result.architecture),
        "parameters_full": lut.space.parameters,
        "parameters_evolved": result.unet.num_parameters(),
        "seconds": seconds,
        "settings": asdict(settings),
        "machine": {"system": platform.platform(), **lut.provenance},
    }
