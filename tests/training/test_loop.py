"""The loop with an objective whose answer is known: a line through points."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from nas.errors import ModelError, NasError, SearchError
from nas.training import Settings, train
from nas.training._checks import Finite
from nas.training._processes import OneProcess
from nas.training.losses import data_loss

POINTS = torch.linspace(-1, 1, 12)[:, None]
WANTED = 3 * POINTS + 1
SETTINGS = Settings(batch_size=12, learning_rate=0.1, weight_decay=0.0)


def line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def objective(step):
    def losses(part):
        error = data_loss(step.model(POINTS[part.rows]), WANTED[part.rows])
        return {"loss": part.share * error, "twice": 2 * part.share * error}

    return [partial(losses, part) for part in step.parts]


def objective_alone(step):
    def losses(part):
        return {"loss": part.share * data_loss(step.model(POINTS[part.rows]), WANTED[part.rows])}

    return [partial(losses, part) for part in step.parts]


def test_it_minimises_the_loss_and_logs_the_others():
    network = line()
    log = train(network, objective, SETTINGS, steps=200)
    assert network.weight.item() == pytest.approx(3, abs=0.05)
    assert network.bias.item() == pytest.approx(1, abs=0.05)
    assert len(log.losses) == 200
    assert log.parts == {"twice": pytest.approx([2 * loss for loss in log.losses])}
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("accumulate", [2, 5, 12])
def test_the_number_of_parts_changes_nothing(accumulate):
    whole, split = line(), line()
    expected = train(whole, objective, SETTINGS, steps=5)
    log = train(split, objective, SETTINGS, steps=5, accumulate=accumulate)
    assert log.losses == pytest.approx(expected.losses, rel=1e-5)
    torch.testing.assert_close(split.state_dict(), whole.state_dict())


def test_only_one_graph_is_alive_at_a_time():
    """Parts are there to save memory: the next forward pass comes after the backward pass of the one before."""
    events = []

    class Watched(nn.Linear):
        def forward(self, points):
            events.append("forward")
            said = super().forward(points)
            said.register_hook(lambda gradient: events.append("backward"))
            return said

    train(Watched(1, 1), objective, SETTINGS, steps=1, accumulate=3)
    assert events == ["forward", "backward"] * 3


def test_the_numbers_of_other_processes_are_added():
    """A step's totals run over parts here and over processes there."""
    totals = []

    def counting(step):
        counts = [torch.tensor(float(part.rows.stop - part.rows.start)) for part in step.parts]
        totals.append(step.total(counts).item())
        return objective(step)

    train(line(), counting, SETTINGS, steps=2, accumulate=4)
    assert totals == [12, 12]


def test_a_checkpoint_knows_what_it_is_of(tmp_path):
    path, identity = tmp_path / "run.pt", {"points": "twelve", "limits": (-1, 1)}
    whole, first, second = line(), line(), line()
    expected = train(whole, objective, SETTINGS, steps=6, identity=identity)
    train(first, objective, SETTINGS, steps=4, identity=identity, checkpoint=path)
    log = train(second, objective, SETTINGS, steps=6, identity=identity, checkpoint=path)
    assert (log.losses, log.parts) == (expected.losses, expected.parts)
    assert torch.equal(second.weight, whole.weight)
    with pytest.raises(SearchError, match="points = 'twelve', this one has 'ten'"):
        train(second, objective, SETTINGS, steps=6, identity={"points": "ten"}, checkpoint=path)


def test_another_networks_checkpoint_leaves_this_one_as_it_is(tmp_path):
    path, other = tmp_path / "run.pt", line()
    train(line(), objective, SETTINGS, steps=2, checkpoint=path)
    with torch.no_grad():
        other.weight.mul_(3)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(SearchError, match="began with other weights"):
        train(other, objective, SETTINGS, steps=4, checkpoint=path)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in before.items())


def test_a_longer_checkpoint_is_not_taken_for_a_shorter_run(tmp_path):
    path, network = tmp_path / "run.pt", line()
    train(line(), objective, SETTINGS, steps=3, checkpoint=path)
    with pytest.raises(SearchError, match="has 3 steps, more than the 2 asked for"):
        train(network, objective, SETTINGS, steps=2, checkpoint=path)
    assert torch.equal(network.weight, line().weight)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_who_has_kept_the_network_trains_it_longer(tmp_path, ema_decay):
    path, settings = tmp_path / "run.pt", Settings(batch_size=12, learning_rate=0.1, ema_decay=ema_decay)
    whole, network = line(), line()
    expected = train(whole, objective, settings, steps=5)
    train(network, objective, settings, steps=3, checkpoint=path)
    assert train(network, objective, settings, steps=5, checkpoint=path).losses == expected.losses
    assert torch.equal(network.weight, whole.weight)


def test_an_accelerator_has_the_teacher_moved_as_well(monkeypatch):
    """A teacher that stayed on the CPU would be run there, while its student learns on a GPU."""

    class Placing(OneProcess):
        device_placement, device = True, torch.device("cpu")

    class WithTeacher:
        others = (line(),)

        def __call__(self, step):
            return objective(step)

    moved, to = [], nn.Module.to
    monkeypatch.setattr(nn.Module, "to", lambda module, *place: moved.append((module, *place)) or to(module, *place))
    network, teaching = line(), WithTeacher()
    train(network, teaching, SETTINGS, steps=1, accelerator=Placing(), check_memory=False)
    assert moved == [(network, Placing.device), (WithTeacher.others[0], Placing.device)]


def test_what_cannot_be_checkpointed_inside_says_so():
    with pytest.raises(ModelError, match="Linear cannot do gradient checkpointing"):
        train(line(), objective, SETTINGS, steps=1, gradient_checkpointing=True)


def test_the_average_is_on_top_of_the_weights_that_go_on(tmp_path):
    """The average is what comes out; the weights that are trained are what goes on."""
    path, settings = tmp_path / "run.pt", Settings(batch_size=12, learning_rate=0.1, ema_decay=0.9)
    network = line()
    train(network, objective, settings, steps=3, checkpoint=path)
    again = copy.deepcopy(network)
    train(again, objective, settings, steps=3, checkpoint=path)
    assert torch.equal(again.weight, network.weight)
    assert not torch.equal(torch.load(path, weights_only=True)["network"]["weight"], network.weight)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_training_that_falls_apart_stops_and_its_checkpoint_is_kept(tmp_path, what):
    network, path = line(), tmp_path / "run.pt"

    def breaking(step):
        factor = 1.0 if step.number < 4 else float("inf") if what == "loss" else 0.0

        def losses(part):
            error = data_loss(step.model(POINTS[part.rows]), WANTED[part.rows])
            # The square root of 0 is a finite number, its slope is not.
            return {"loss": part.share * error * factor if what == "loss" or factor else (error * 0).sqrt()}

        return [partial(losses, part) for part in step.parts]

    with pytest.raises(NasError, match=r"in step 4 the loss is .*learning_rate"):
        train(network, breaking, SETTINGS, steps=9, checkpoint=path, every=2)
    kept = line()
    train(kept, objective_alone, SETTINGS, steps=4, checkpoint=path)
    assert kept.weight.isfinite().all()


def test_where_losses_are_scaled_a_few_steps_may_overflow():
    class Scaling(OneProcess):
        scaler = object()

    lost = Finite(Scaling())
    for number in range(20):
        lost.require(number, float("inf"), torch.tensor(float("nan")))
    lost.require(20, 1.0, torch.tensor(1.0))
    for number in range(20):
        lost.require(number, 1.0, torch.tensor(float("inf")))
    with pytest.raises(NasError, match="in step 41 the loss is 1 and the gradient's norm nan"):
        lost.require(41, 1.0, torch.tensor(float("nan")))


def test_weights_in_float16_are_not_trained():
    with pytest.raises(ModelError, match="load it in float32"):
        train(line().half(), objective, SETTINGS, steps=1)
