from __future__ import annotations

import copy

import pytest
import torch
from conftest_pipeline import make_scheduler

from nas import NasError, Supernet
from nas.training import distil_route, distil_steps
from nas.unet import folded_width

OPTIONS = {"scheduler": make_scheduler(), "steps": 2, "batch_size": 2, "learning_rate": 1e-3}


def weights(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.fixture
def smaller(small_unet, small_space):
    return Supernet(small_unet, small_space).extract(small_space.full.remove("mid.attention.0"))


def test_the_route_is_its_distillations_by_hand(teacher, smaller, training_data):
    full, small = copy.deepcopy(teacher), copy.deepcopy(smaller)
    stages = distil_route(teacher, training_data, student=smaller, route=(8, 4), **OPTIONS)
    assert [stage.name for stage in stages] == ["8-full", "8-student", "4-student"]
    assert [stage.student_steps for stage in stages] == [8, 8, 4]
    first = copy.deepcopy(teacher)
    distil_steps(first, full, training_data, student_steps=8, **OPTIONS)
    assert same(stages[0].network, first)
    distil_steps(small, full, training_data, student_steps=8, **OPTIONS)
    assert same(stages[1].network, small)
    log = distil_steps(small, first, training_data, student_steps=4, **OPTIONS)
    assert same(stages[2].network, small)
    assert stages[2].log.losses == log.losses
    assert same(teacher, full)
    assert not any(stage.network.training for stage in stages)


def test_the_direct_route_is_one_distillation(teacher, training_data):
    [stage] = distil_route(teacher, training_data, route=(8,), **OPTIONS)
    student = copy.deepcopy(teacher)
    distil_steps(student, teacher, training_data, student_steps=8, **OPTIONS)
    assert stage.name == "8-full"
    assert same(stage.network, student)


def test_a_route_that_was_stopped_goes_on(teacher, smaller, training_data, tmp_path, monkeypatch):
    options = {**OPTIONS, "student": smaller, "route": (8, 4), "steps": (2, 3)}
    expected = distil_route(teacher, training_data, **options)
    from nas.training import Batches

    sample = Batches.sample

    def failing(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return sample(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "sample", failing)
        with pytest.raises(KeyboardInterrupt):
            distil_route(teacher, training_data, folder=tmp_path, every=1, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4-student.pt", "8-full.pt", "8-student.pt"]
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "sample", lambda self, step: (drawn.append(step), sample(self, step))[1])
        stages = distil_route(teacher, training_data, folder=tmp_path, **options)
    assert drawn == [2]
    for stage, known in zip(stages, expected, strict=True):
        assert same(stage.network, known.network)
        assert stage.log.losses == known.log.losses


def test_folding_in_the_last_stage(teacher, training_data):
    stages = distil_route(teacher, training_data, route=(8, 4), fold=True, guidance_range=(1.0, 4.0), **OPTIONS)
    assert [folded_width(stage.network) is not None for stage in stages] == [False, True]
    assert stages[1].network.time_embedding.cond_proj.weight.abs().max() > 0
    assert folded_width(teacher) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"route": ()}, "descend"),
        ({"route": (4, 8)}, "descend"),
        ({"route": (8, 8)}, "descend"),
        ({"route": (8, 0)}, "is 0"),
        ({"route": (8, 4), "steps": (1,)}, "1 numbers for a route of 2"),
    ],
)
def test_routes_that_make_no_sense(teacher, training_data, changes, sentence):
    with pytest.raises(NasError, match=sentence):
        distil_route(teacher, training_data, **{**OPTIONS, **changes})
