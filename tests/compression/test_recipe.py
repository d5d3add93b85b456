"""Recipes in YAML are the dataclasses, and mistakes in them are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas import LatencyTable, bundled
from nas.compression import DecoderSettings, EvolutionSettings, Recipe, StepSettings, load_recipe
from nas.errors import BudgetError, NasError
from nas.latency import Timing

ROOT = Path(__file__).resolve().parents[2]
LEAST = "pipeline: p\nlut: l\nout: o\nimage_budget_ms: 100\n"


def load(folder: Path, text: str, **changes: object) -> Recipe:
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml", **changes)


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST) == Recipe(pipeline="p", lut="l", out="o", image_budget_ms=100)


def test_fields_are_those_of_the_settings(tmp_path: Path) -> None:
    more = """
steps: 4
robust_training: false
evolution: true
decoder: {keep: [0.5, 0.25], learning_rate: 1e-3, training_steps: 0}
step_distillation:
  route: [16, 8, 4]
  fold: yes
timing: {passes: 2}
"""
    assert load(tmp_path, LEAST + more, out="elsewhere") == Recipe(
        pipeline="p",
        lut="l",
        out="elsewhere",
        image_budget_ms=100,
        steps=4,
        robust_training=None,
        evolution=EvolutionSettings(),
        decoder=DecoderSettings(keep=[0.5, 0.25], learning_rate=0.001, training_steps=0),
        step_distillation=StepSettings(route=[16, 8, 4], fold=True),
        timing=Timing(passes=2),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["it holds nothing"]),
        ("- 1", ["it holds a list"]),
        ("a: [", ["not readable YAML"]),
        (LEAST + "steps: 4\nsteps: 8\n", ["'steps' stands twice"]),
        (LEAST + "step: 4\n", ["'step' is no field", "steps, full_steps"]),
        (LEAST + "decoder: {keeep: 0.5}\n", ["'keeep' is no field of decoder", "keep, refit_latents"]),
        (LEAST + "decoder: 0.5\n", ["decoder is a float", "true, false or fields"]),
        (LEAST + "data: false\n", ["data is a bool where fields"]),
        (LEAST.replace("lut: l\n", ""), ["'lut' is missing"]),
        (LEAST + "steps: 0\n", ["steps is 0"]),
        (LEAST + "guidance_scale: much\n", ["guidance_scale is 'much'"]),
        (LEAST + "robust_training: {learning_rate: fast}\n", ["robust_training.learning_rate is 'fast'"]),
        (LEAST + "robust_training: {training_steps: 0}\n", ["robust_training.training_steps is 0"]),
        (LEAST + "judge: {max_prompts: 1.5}\n", ["judge.max_prompts is 1.5"]),
        (LEAST + "step_distillation: {route: [16, 4]}\n", ["route [16, 4] must end with the recipe's steps, 8"]),
        (LEAST + "step_distillation: {teacher_steps: 16}\n", ["teacher_steps is 16", "more than the route's [16, 8]"]),
        (LEAST + "step_distillation: {route: []}\n", ["route"]),
        (LEAST + "step_distillation: {guidance_range: [3]}\n", ["guidance_range"]),
        (LEAST + "step_distillation: {guidance_range: [0.2, 5]}\n", ["step_distillation.", "1 <= low <= high"]),
        (LEAST + "step_distillation: {route: [4, 8]}\n", ["route is [4, 8]", "descend"]),
        (LEAST + "step_distillation: {route: [16.5, 8]}\n", ["route is [16.5, 8]"]),
        (LEAST + "step_distillation: {guided_share: 2}\n", ["guided_share is 2"]),
        (LEAST + "step_distillation: {original_share: -1}\n", ["original_share is -1"]),
        (LEAST + "decoder: {batch_size: 8, accumulate: 9}\n", ["decoder.accumulate is 9"]),
        (LEAST + "evolution: {first_look: 1}\n", ["evolution.first_look is 1"]),
        (LEAST + "evolution: {group_size: -1}\n", ["evolution.group_size is -1"]),
        (LEAST + "evolution: {train_steps: 1e3}\n", ["evolution.train_steps is '1e3'"]),
        (LEAST + "evolution: {margin: 2}\n", ["evolution.margin is 2"]),
        (LEAST + "robust_training: {skip_probability: 3}\n", ["skip_probability is 3"]),
        (LEAST + "robust_training: {skip_schedule: steep}\n", ["skip_schedule is 'steep'", "ramp, by_depth"]),
        (LEAST + "robust_training: {data_weight: -3}\n", ["data_weight is -3"]),
        (LEAST + "evaluation: {guidance_scales: [-1]}\n", ["guidance_scales are [-1]"]),
        (LEAST + "evaluation: {guidance_scales: 5}\n", ["guidance_scales are 5"]),
        (LEAST + "guidance_scale: 1\nstep_distillation: {fold: true}\n", ["no guidance to fold"]),
        (LEAST.replace("out: o", "out: 5"), ["out is 5", "path"]),
        (LEAST.replace("out: o", "out:"), ["out is None", "path"]),
        (LEAST.replace("lut: l", "lut: 5"), ["lut is 5", "path"]),
        (LEAST.replace("lut: l", "lut:"), ["lut is None", "path"]),
        (LEAST + "unet: true\n", ["unet is True"]),
        (LEAST + "image: [a]\n", ["image is ['a']"]),
        (LEAST + "judge: {clip: 3}\n", ["judge.clip is 3"]),
        (LEAST + "evaluation: {real: 7}\n", ["evaluation.real is 7"]),
        (LEAST.replace("100", "150ms"), ["image_budget_ms is '150ms'"]),
        (LEAST.replace("100", "-1"), ["image_budget_ms is -1"]),
        (LEAST + "decoder: {keep: 50}\n", ["decoder.keep is 50"]),
        (LEAST + "decoder: {keep: []}\n", ["decoder.keep is []"]),
        (LEAST + "decoder: {latency_ms: -1}\n", ["decoder.latency_ms is -1"]),
        (LEAST + "decoder: {fresh_latents: 2}\n", ["fresh_latents is 2", "true or false"]),
        (LEAST + "step_distillation: {fold: 'false'}\n", ["fold is 'false'", "true or false"]),
        (LEAST + "timing: {max_seconds: fast}\n", ["timing.max_seconds is 'fast'"]),
        (LEAST + "timing: {passes: '2'}\n", ["timing.passes is '2'"]),
        ("!!python/object/apply:os.getcwd []", ["not readable YAML"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(NasError) as caught:
        load(tmp_path, text)
    assert [word for word in [*words, "recipe.yaml: "] if word not in str(caught.value)] == []


def test_an_evolution_needs_a_budget(tmp_path: Path) -> None:
    text = LEAST.replace("image_budget_ms: 100\n", "")
    with pytest.raises(BudgetError, match="give image_budget_ms"):
        load(tmp_path, text)
    assert load(tmp_path, text + "evolution: false\n").evolution is None


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NasError, match="no recipe at"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_the_example_is_for_what_comes_along() -> None:
    recipe = load_recipe(ROOT / "recipes" / "emoji" / "compress.yaml")
    assert bundled(recipe.pipeline).is_dir()
    assert LatencyTable.load(recipe.lut).workload.batch_size == (1 if recipe.folded else 2)
    assert recipe.unet is None or (ROOT / recipe.unet).is_dir()
