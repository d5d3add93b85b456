from __future__ import annotations

import copy
import random

import pytest
import torch
from conftest_pipeline import make_scheduler

from nas import NasError
from nas.errors import ModelError
from nas.training import Probe, probe, probe_train, robust_train
from nas.unet import fold_guidance

SCHEDULER = make_scheduler()
OPTIONS = {"scheduler": SCHEDULER, "steps": 2, "batch_size": 2, "learning_rate": 1e-3}


def weights(network):
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def changed(before, network) -> set[str]:
    return {name for name, parameter in network.named_parameters() if not torch.equal(before[name], parameter)}


@pytest.fixture
def teacher(small_unet):
    return copy.deepcopy(small_unet)


@pytest.fixture
def candidate(supernet, small_space):
    return supernet.candidate(small_space.sample(random.Random(0), keep=0.6))


def test_trains_the_shared_weights_and_restores_them_to_the_bit(supernet, candidate, teacher, training_data):
    before = weights(supernet)
    with probe(candidate, teacher, training_data, **OPTIONS) as trained:
        assert trained is candidate
        assert changed(before, supernet)
    assert not changed(before, supernet)
    assert all(parameter.grad is None for parameter in supernet.parameters())


def test_only_what_the_candidate_uses_is_trained_and_copied(supernet, candidate, teacher, training_data):
    before = weights(supernet)
    used = {id(parameter) for parameter in candidate.parameters()}
    unused = {name for name, parameter in supernet.named_parameters() if id(parameter) not in used}
    assert unused
    snapshot = probe_train(candidate, teacher, training_data, **OPTIONS)
    assert 0 < len(snapshot) <= len(used)
    assert changed(before, supernet)
    assert not changed(before, supernet) & unused
    snapshot.restore()
    assert not changed(before, supernet)
    snapshot.restore()  # once is enough, twice does no harm


def test_restores_after_an_error(supernet, candidate, teacher, training_data):
    before = weights(supernet)

    def fail():
        with probe(candidate, teacher, training_data, **OPTIONS):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not changed(before, supernet)


def test_restores_after_an_error_during_training(supernet, candidate, teacher, training_data, monkeypatch):
    before = weights(supernet)
    before_probe = Probe(teacher, training_data, **OPTIONS)
    calls = []

    def step_then_fail(self, *arguments):
        calls.append(original(self, *arguments))
        raise RuntimeError

    original = Probe._step
    monkeypatch.setattr(Probe, "_step", step_then_fail)
    with pytest.raises(RuntimeError):
        before_probe.train(candidate)
    assert calls
    assert not changed(before, supernet)


def test_is_the_training_of_robust_train(candidate, teacher, training_data):
    apart = copy.deepcopy(candidate)
    robust_train(apart, teacher, training_data, **OPTIONS, weight_decay=0.0)
    with probe(candidate, teacher, training_data, **OPTIONS) as trained:
        for name, parameter in trained.named_parameters():
            torch.testing.assert_close(parameter, apart.get_parameter(name))


def test_every_candidate_sees_the_same_batches(supernet, small_space, teacher, training_data):
    prober = Probe(teacher, training_data, **OPTIONS)
    first, second = (supernet.candidate(small_space.sample(random.Random(seed), keep=0.7)) for seed in range(2))
    runs = []
    for candidate in (first, second, first):
        with prober(candidate) as trained:
            runs.append(weights(trained))
    assert all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_the_loss_falls(candidate, teacher, training_data):
    prober = Probe(teacher, training_data, **{**OPTIONS, "steps": 6})

    def loss(network):
        with torch.no_grad():
            return sum((b.run(network) - b.teacher).square().mean().item() for b in prober.batches)

    before = loss(candidate)
    with prober(candidate) as trained:
        assert loss(trained) < before
    assert loss(candidate) == before


def test_a_teacher_may_be_the_supernet_itself(supernet, candidate, small_unet, training_data):
    before = weights(supernet)
    with Probe(small_unet, training_data, **OPTIONS)(candidate):
        assert changed(before, supernet)
    assert not changed(before, supernet)


def test_no_steps_do_nothing(supernet, candidate, teacher, training_data):
    before = weights(supernet)
    with probe(candidate, teacher, training_data, **{**OPTIONS, "steps": 0}):
        assert not changed(before, supernet)


def test_modes_flags_and_gradients_are_kept(candidate, teacher, training_data):
    candidate.train()
    candidate.conv_in.requires_grad_(False)
    candidate.conv_out.bias.grad = torch.ones(4)
    with probe(candidate, teacher, training_data, **OPTIONS):
        pass
    assert candidate.training
    assert not candidate.conv_in.weight.requires_grad
    assert candidate.conv_out.bias.grad.tolist() == [1] * 4


def test_bad_arguments(teacher, training_data):
    for wrong in ({"steps": -1}, {"learning_rate": 0.0}, {"batch_size": 0}):
        with pytest.raises(NasError):
            Probe(teacher, training_data, **{**OPTIONS, **wrong})


def test_who_is_told_the_guidance_is_refused(small_unet, teacher, training_data):
    made = Probe(teacher, training_data, **OPTIONS)
    for network in (small_unet, teacher):
        fold_guidance(network, width=8)
    with pytest.raises(ModelError, match="told the guidance"):
        made.train(small_unet)
    with pytest.raises(ModelError, match="told the guidance"):
        Probe(teacher, training_data, **OPTIONS)
