"""What a training is said to need, against what its tensors take, and against what a process of its own takes."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import memory_of_training
import pytest
import torch
from autoencoders import make_autoencoder
from small_training import SCHEDULER, make_data, make_space, make_teacher, make_unet
from torch import nn

import nas.training._memory as estimate
from nas import NasError, Supernet
from nas.decoder import GivenLatents
from nas.decoder._distillation import _Objective, _Pictures
from nas.supernet import sandwich
from nas.training import Batches, Settings, distil_steps, robust_train, train, training_memory
from nas.training._free_memory import container_bytes, free_bytes
from nas.training._loop import Step
from nas.training._processes import OneProcess, Part
from nas.training._rehearsal import _Alive, most_alive
from nas.training._robust import RobustObjective
from nas.training._run import Run
from nas.training._settings import RobustTrainingSettings
from nas.training._step_objective import ConsistencyObjective, StepDistillationSettings, StepObjective
from nas.training.losses import data_loss

CPU = torch.device("cpu")
WIDTH = 8


class Chain(nn.Module):
    """Layers whose outputs are all kept for the backward pass."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sigmoid()) for _ in range(depth)))

    def forward(self, values):
        return self.layers(values)


class ChainObjective:
    def __init__(self, *others: nn.Module) -> None:
        self.others = list(others)

    def __call__(self, step):
        def losses(part):
            values = torch.ones(part.rows.stop - part.rows.start, WIDTH)
            said = step.model(values)
            return {"loss": part.share * data_loss(said, torch.zeros_like(said))}

        return [lambda part=part: losses(part) for part in step.parts]

    rehearse = __call__


def parts(*counts):
    first, found = 0, []
    for count in counts:
        found.append(Part(slice(first, first + count), count / sum(counts)))
        first += count
    return found


def in_bytes(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counts_are_those_of_the_tensors_of_a_run(dtype):
    network, teacher = Chain(3).to(dtype), Chain(2)
    network.register_buffer("known", torch.zeros(5))
    network.layers[0][0].bias.requires_grad_(False)
    settings = Settings(batch_size=4, ema_decay=0.9)
    memory = training_memory(
        network, ChainObjective(teacher, network.layers), settings, parts(4), mixed_precision="bf16"
    )
    run = Run(network, settings, 1, {}, None, 1, OneProcess())
    data_loss(network(torch.ones(4, WIDTH, dtype=dtype)), torch.zeros(4, WIDTH)).backward()
    assert memory.weights == in_bytes(network.parameters()) + 20
    assert memory.others == in_bytes(teacher.parameters())
    assert memory.gradients == in_bytes([p.grad for p in network.parameters() if p.grad is not None])
    run.optimizer.step()
    states = [value for state in run.optimizer.state.values() for value in state.values()]
    assert memory.optimizer == in_bytes(states)
    assert memory.average == in_bytes(run._average)
    assert {average.dtype for average in run._average} == {torch.float32}
    assert memory.total == memory.weights + memory.others + memory.to_come
    assert memory.to_come == memory.gradients + memory.optimizer + memory.average + memory.activations
    two = training_memory(network, ChainObjective(), settings, parts(4), processes=2)
    assert two.gradients == 2 * memory.gradients


def test_every_layer_keeps_its_output_and_nothing_is_allocated():
    """2**40 samples: nobody has the memory, and nobody needs it."""
    rows = 2**40
    unit = rows * WIDTH * 4
    found = {}
    for depth in (10, 30):
        chain = Chain(depth)
        found[depth] = training_memory(chain, ChainObjective(), Settings(), parts(rows)).activations
        assert depth * unit < found[depth] < (depth + 7) * unit
        assert all(parameter.grad is None and parameter.is_leaf for parameter in chain.parameters())
    assert found[30] - found[10] == pytest.approx(20 * unit, rel=1e-3)
    # One part's graph is alive at a time.
    halves = training_memory(Chain(30), ChainObjective(), Settings(), parts(rows // 2, rows // 2))
    assert halves.activations == pytest.approx(found[30] / 2, rel=1e-3)


def test_gradients_wait_for_the_second_part():
    """With one part they come while the activations go."""
    network = Chain(40)
    counts = [training_memory(network, ChainObjective(), Settings(), parts(*rows)) for rows in ((1,), (1, 1))]
    one, two = (memory.gradients + memory.activations for memory in counts)
    assert one < two
    assert two > counts[1].gradients + 40 * WIDTH * 4


def robust(network, **weights):
    data, settings = make_data(), RobustTrainingSettings(batch_size=6, **weights)
    return network, RobustObjective(make_teacher(), Batches(data, SCHEDULER, batch_size=6), settings)


def robust_scenario():
    return robust(Supernet(make_unet(), make_space(), skip_probability=0.0), feature_weight=0.5, data_weight=0.5)


def sandwich_scenario():
    return robust(Supernet(make_unet(), make_space(), skip_probability=sandwich(0.0, draws=1)))


def steps_scenario(guided_share=1.0):
    settings = StepDistillationSettings(student_steps=4, batch_size=6, guided_share=guided_share)
    return make_unet(), StepObjective(make_teacher(), make_data(), SCHEDULER, settings)


def consistency_scenario():
    settings = StepDistillationSettings(student_steps=4, teacher_steps=20, batch_size=6, guided_share=1.0)
    return make_unet(), ConsistencyObjective(make_teacher(), make_data(), SCHEDULER, settings)


def folded_scenario():
    _, objective = steps_scenario()
    return make_unet(time_cond_proj_dim=8), objective


def decoder_scenario():
    student, teacher = make_autoencoder("attention"), make_autoencoder("attention", seed=1)
    latents = torch.randn(8, student.config.latent_channels, 16, 16)
    objective = _Objective(student, _Pictures(teacher, 0.0), GivenLatents(latents), Settings(batch_size=6))
    return student.decoder, objective


@pytest.mark.parametrize("counts", [(6,), (3, 3)], ids=["one_part", "two_parts"])
@pytest.mark.parametrize(
    "scenario",
    [robust_scenario, sandwich_scenario, steps_scenario, consistency_scenario, folded_scenario, decoder_scenario],
)
def test_a_rehearsal_takes_what_the_step_takes(scenario, counts):
    """The same count, once of real tensors in the real step, once of those of the rehearsal."""
    network, objective = scenario()
    network.train()
    known, parameters = copy.deepcopy(network.state_dict()), list(network.parameters())
    said = training_memory(network, objective, objective.settings, parts(*counts))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    assert all(torch.equal(value, known[name]) for name, value in network.state_dict().items())
    with _Alive(CPU) as alive:
        for losses_of in objective(Step(0, network, network, parts(*counts), lambda values: values)):
            losses_of()["loss"].backward()
    assert said.gradients + said.activations == pytest.approx(alive.most, rel=0.15)


def test_what_saves_memory_saves_it():
    network, objective = steps_scenario()
    settings = objective.settings
    plain = training_memory(network, objective, settings, parts(6))
    checkpointed = training_memory(network, objective, settings, parts(6), gradient_checkpointing=True)
    assert checkpointed.activations < 0.8 * plain.activations
    assert not network.is_gradient_checkpointing
    mixed = training_memory(network, objective, settings, parts(6), mixed_precision="bf16")
    assert mixed.activations < plain.activations
    _, unguided = steps_scenario(guided_share=0.0)
    assert training_memory(network, unguided, settings, parts(6)).activations < 0.7 * plain.activations


def test_rehearsing_moves_no_path_on():
    supernet = Supernet(make_unet(), make_space(), skip_probability=0.5)
    twin = copy.deepcopy(supernet)
    training_memory(*robust(supernet), Settings(batch_size=6), parts(6))
    assert supernet.step == 0
    assert supernet.draw_path() == twin.draw_path()


@pytest.fixture
def asked(monkeypatch):
    """Small trainings are asked about too, and said."""
    monkeypatch.setattr(estimate, "_WORTH_ASKING", 0)
    monkeypatch.setattr(estimate, "_WORTH_SAYING", 0)
    return monkeypatch


OPTIONS = {"scheduler": SCHEDULER, "steps": 1, "batch_size": 4}


def test_a_training_says_what_it_needs(asked, capsys):
    log = robust_train(make_unet(), make_teacher(), make_data(), **OPTIONS)
    assert f"training needs about {log.memory} of memory on cpu" in capsys.readouterr().err
    assert log.memory.total > 4 * log.memory.weights
    other = distil_steps(make_unet(), make_teacher(), make_data(), student_steps=4, check_memory=False, **OPTIONS)
    assert other.memory is None
    assert capsys.readouterr().err == ""


def test_little_is_not_asked_about(capsys):
    assert robust_train(make_unet(), None, make_data(), **OPTIONS).memory is None
    assert capsys.readouterr().err == ""


def test_too_little_memory_is_refused_before_anything_is_trained(asked):
    needed = robust_train(make_unet(), make_teacher(), make_data(), **OPTIONS).memory.to_come
    asked.setattr(estimate, "free_bytes", lambda device: int(0.95 * needed))
    robust_train(make_unet(), make_teacher(), make_data(), **OPTIONS)
    asked.setattr(estimate, "free_bytes", lambda device: int(0.8 * needed))
    network = make_unet()
    with pytest.raises(NasError) as refused:
        robust_train(network, make_teacher(), make_data(), ema_decay=0.9, **OPTIONS)
    for lever in (
        "gradient_checkpointing=True",
        "accumulate=2",
        "batch_size",
        "bf16",
        "ema_decay",
        "check_memory=False",
    ):
        assert lever in str(refused.value)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), make_unet().parameters(), strict=True))
    asked.setattr(estimate, "free_bytes", lambda device: 1)
    with pytest.raises(NasError) as refused:
        robust_train(network, None, make_data(), **{**OPTIONS, "batch_size": 1}, gradient_checkpointing=True)
    for lever in ("gradient_checkpointing=True", "accumulate", "batch_size", "other networks", "ema_decay"):
        assert lever not in str(refused.value)
    robust_train(network, None, make_data(), check_memory=False, **OPTIONS)


def test_a_network_that_looks_at_values_is_trained_all_the_same(asked, capsys):
    class Looking(Chain):
        def forward(self, values):
            return super().forward(values) * (1 if values.sum() > 0 else 2)

    log = train(Looking(2), ChainObjective(), Settings(batch_size=2), steps=1)
    assert len(log.losses) == 1
    assert log.memory is None
    assert "cannot be found" in capsys.readouterr().err


def test_other_devices_do_not_count():
    def run():
        torch.zeros(100, device="meta")
        torch.zeros(10)

    assert most_alive(run, [], CPU) == 40


def test_what_is_gone_does_not_count():
    def run():
        for _ in range(3):
            one = torch.zeros(100)
            other = one.view(10, 10).add_(1)
            del one
        assert other.shape == (10, 10)

    assert most_alive(run, [], CPU) == 800


def group(root: Path, folder: str, limit: str, used: str, idle: int, *, version: int) -> None:
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    path = root / "sys/fs/cgroup" / ("memory" if version == 1 else "") / folder
    path.mkdir(parents=True, exist_ok=True)
    (path / names[0]).write_text(limit + "\n")
    (path / names[1]).write_text(used + "\n")
    (path / "memory.stat").write_text(f"anon 5\n{names[2]} {idle}\n")


def test_a_container_has_what_its_groups_leave(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    assert container_bytes(tmp_path) == []
    (tmp_path / "proc/self/cgroup").write_text("0::/outer/inner\n")
    assert container_bytes(tmp_path) == []
    group(tmp_path, "outer", "1000", "700", 50, version=2)
    group(tmp_path, "outer/inner", "max", "600", 40, version=2)
    assert container_bytes(tmp_path) == [350]
    group(tmp_path, "outer/inner", "900", "600", 40, version=2)
    assert sorted(container_bytes(tmp_path)) == [340, 350]
    (tmp_path / "proc/self/cgroup").write_text("5:cpu,cpuacct:/x\n4:memory:/hidden\n")
    group(tmp_path, "", "2000", "100", 1, version=1)
    assert container_bytes(tmp_path) == [1901]


def test_this_machine_has_memory():
    assert free_bytes(CPU) > 0
    assert free_bytes(torch.device("meta")) is None


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--checkpointing"], ["--bf16"], ["--accumulate", "2"]], ids=str)
@pytest.mark.parametrize("stage", memory_of_training.STAGES)
def test_a_process_takes_what_was_said(stage, options):
    paths = os.pathsep.join([str(Path(memory_of_training.__file__).parent), *sys.path])
    # glibc gives back at once what it maps; of its heap half a GiB stayed, which the estimate does not promise to know.
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    said = subprocess.run(
        [sys.executable, memory_of_training.__file__, stage, *options],
        env={**os.environ, "PYTHONPATH": paths, **allocator},
        stdout=subprocess.PIPE,
        check=True,
    )
    figures = json.loads(said.stdout)
    assert figures["to_come"] > 200 * 2**20
    assert figures["measured"] == pytest.approx(figures["to_come"], rel=0.2)
