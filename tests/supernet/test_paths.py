from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from nas import Supernet, Workload
from nas.errors import ModelError
from nas.supernet import ramp
from nas.unet import example_inputs


def paths(supernet: Supernet, count: int = 20) -> list[str]:
    return [str(supernet.draw_path()) for _ in range(count)]


def test_paths_depend_on_the_seed_alone(tiny_unet, tiny_space):
    first, again, other = (Supernet(tiny_unet, tiny_space, seed=seed) for seed in (1, 1, 2))
    torch.manual_seed(5)
    drawn = paths(first)
    torch.manual_seed(6)
    assert paths(again) == drawn
    assert paths(other) != drawn
    assert len(set(drawn)) > 10, "drawn anew for every pass"


def test_blocks_are_skipped_as_often_as_asked_and_independently(tiny_unet, tiny_space):
    places = tiny_space.full.places
    rate = {place: 0.1 + 0.8 * index / len(places) for index, place in enumerate(places)}
    supernet, count = Supernet(tiny_unet, tiny_space, skip_probability=rate), 2000
    skipped = torch.zeros(count, len(places), dtype=torch.float64)
    for row in skipped:
        removed = set(supernet.draw_path().removed)
        row += torch.tensor([place in removed for place in places])
    expected = torch.tensor(list(rate.values()), dtype=torch.float64)
    deviation = (skipped.mean(0) - expected) / (expected * (1 - expected) / count).sqrt()
    assert deviation.abs().max() < 4.5  # standard errors, 28 of them
    correlation = torch.corrcoef(skipped.T) - torch.eye(len(places))
    assert correlation.abs().max() < 5 / count**0.5


def test_training_draws_and_evaluation_runs_everything(tiny_unet, tiny_space):
    inputs = example_inputs(tiny_space, Workload.of(tiny_space))
    supernet = Supernet(tiny_unet, tiny_space, skip_probability=0.5)
    expected = paths(Supernet(tiny_unet, tiny_space, skip_probability=0.5), 2)
    with torch.no_grad():
        supernet.train()(**inputs)
        first = str(supernet.last_path)
        supernet.eval()(**inputs)
        assert supernet.last_path == tiny_space.full
        supernet.train()(**inputs)
    assert [first, str(supernet.last_path)] == expected, "evaluation in between draws nothing"


def test_only_blocks_that_are_there_are_drawn(tiny_unet, tiny_space):
    supernet = Supernet(tiny_unet, tiny_space, skip_probability=0.3)
    current = tiny_space.full.remove("mid.attention.0").remove("down.1.resnet.1").duplicate("up.1.resnet.0")
    supernet.move_to(current)
    drawn = [supernet.draw_path() for _ in range(200)]
    assert all(path.runs(place) <= current.runs(place) for path in drawn for place in current.places)
    assert {path.runs("up.1.resnet.0") for path in drawn} == {0, 1, 2}, (
        "the block and its copy are skipped on their own"
    )


def test_fixed_blocks_always_run(tiny_unet, tiny_space):
    space = replace(tiny_space, fixed=frozenset({"down.0.resnet.0", "up.2.attention.2"}))
    assert Supernet(tiny_unet, space, skip_probability=1.0).draw_path() == space.empty


def test_schedules_follow_the_step(tiny_unet, tiny_space):
    supernet = Supernet(tiny_unet, tiny_space, skip_probability=ramp(1.0, 10))
    counts = [len(supernet.draw_path().removed) for _ in range(12)]
    assert counts[0] == 0
    assert 0 < counts[5] < 28
    assert counts[10:] == [28, 28]
    supernet.step = 0
    assert supernet.draw_path() == tiny_space.full


def test_a_loaded_state_goes_on_where_it_was(tiny_unet, tiny_space, tmp_path):
    supernet = Supernet(tiny_unet, tiny_space, seed=3)
    supernet.move_to(tiny_space.full.remove("mid.attention.0").duplicate("up.1.resnet.0"))
    torch.nn.init.ones_(supernet.copies["up_1_resnet_0"][0].conv2.bias)
    paths(supernet, 7)
    save_file(supernet.state_dict(), tmp_path / "state.safetensors")
    torch.save(supernet.state_dict(), tmp_path / "state.pt")
    for state in (load_file(tmp_path / "state.safetensors"), torch.load(tmp_path / "state.pt", weights_only=True)):
        other = Supernet(tiny_unet, tiny_space, seed=99)
        other.load_state_dict(state)
        assert (other.current, other.step, other.seed) == (supernet.current, 7, 3)
        assert torch.equal(other.copies["up_1_resnet_0"][0].conv2.bias, torch.ones(16))
        expected = Supernet(tiny_unet, tiny_space, seed=3)
        expected.load_state_dict(supernet.state_dict())
        assert paths(other) == paths(expected)


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"current": 1, "seed": 0, "step": 0}', b"\xff\xfe"])
def test_a_damaged_state_is_refused(tiny_unet, tiny_space, damage: bytes):
    supernet = Supernet(tiny_unet, tiny_space)
    with pytest.raises(ModelError, match="damaged"):
        supernet.set_extra_state(torch.tensor(list(damage), dtype=torch.uint8))
