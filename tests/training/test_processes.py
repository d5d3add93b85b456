"""Training in several processes, and in one that is killed: in processes of their own, as a user has them."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_training
import torch
from accelerate import Accelerator
from small_training import SCENARIOS, run

from nas import NasError
from nas.pipelines import load_unet
from nas.training._processes import OneProcess, parts_of

PROGRAM = Path(small_training.__file__)


def start(*arguments: object, program: Path = PROGRAM, **environment: object) -> subprocess.Popen:
    changes = {name: str(value) for name, value in environment.items()}
    paths = os.pathsep.join([str(PROGRAM.parent), *sys.path])
    command = [sys.executable, str(program), *map(str, arguments)]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **changes}, stdout=subprocess.PIPE
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of two processes gave, connected by gloo."""
    folder = tmp_path_factory.mktemp("two")
    together = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    running = [start("scenarios", folder, RANK=rank, LOCAL_RANK=rank, **together) for rank in range(2)]
    for process in running:
        process.communicate(timeout=300)
        assert process.returncode == 0
    return [torch.load(folder / f"process_{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_give_the_losses_and_weights_of_one(two_processes, scenario):
    log, network = run(scenario)
    for process in two_processes:
        assert process["processes"] == 2
        assert process[scenario]["losses"] == pytest.approx(log.losses, rel=1e-4)
        assert process[scenario]["parts"].keys() == log.parts.keys()
        for name, losses in log.parts.items():
            assert process[scenario]["parts"][name] == pytest.approx(losses, rel=1e-3, abs=1e-6)
    start = small_training.make_unet().state_dict()
    moved, off = 0.0, 0.0
    for name, weight in network.state_dict().items():
        if weight.is_floating_point():
            first, second = (process[scenario]["weights"][name] for process in two_processes)
            assert torch.equal(first, second)
            off += (first - weight).square().sum().item()
            moved += (weight - start.get(name.removeprefix("unet."), weight)).square().sum().item()
    # Where a gradient is next to nothing, AdamW makes a step out of its rounding.
    assert off < 1e-3 * moved


def test_all_processes_resume_and_one_writes(two_processes):
    for rank, process in enumerate(two_processes):
        assert process["resumed"]["losses"] == process["robust"]["losses"]
        for name, weight in process["robust"]["weights"].items():
            assert torch.equal(process["resumed"]["weights"][name], weight)
        assert len(process["written"]) == (2 if rank == 0 else 0)


@pytest.mark.parametrize("scenario", ["robust", "folded"])
def test_killed_at_any_moment_and_started_again_it_gives_the_same_weights(tmp_path, scenario):
    path, steps = tmp_path / "run.pt", 1000
    # Another number of threads adds up in another order.
    process = start("endless", path, scenario, steps, OMP_NUM_THREADS=torch.get_num_threads())
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.random() / 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(torch.load(path, weights_only=True)["losses"]["loss"])
    assert 0 < done < steps
    log, network = run(scenario, steps=done + 3, checkpoint=path)
    expected, whole = run(scenario, steps=done + 3)
    assert log.losses == expected.losses
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), whole.parameters(), strict=True))
    assert list(tmp_path.iterdir()) == [path]


def test_the_recipe_gives_the_same_in_two_processes(tiny_pipeline_dir, tmp_path):
    script = Path(__file__).resolve().parents[2] / "recipes" / "train_robust.py"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\nthree\nfour\n")
    found = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        told = ["--pipeline", tiny_pipeline_dir, "--prompts", prompts, "--out", out, "--steps", 2, "--batch-size", 3]
        # What `accelerate launch` sets on a machine with so many accelerators; on the CPU it starts one process alone.
        together = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "localhost"}
        together |= {"MASTER_PORT": free_port(), "ACCELERATE_USE_CPU": "true"}
        running = [start(*told, program=script, RANK=rank, LOCAL_RANK=rank, **together) for rank in range(processes)]
        said = [process.communicate(timeout=300)[0].decode() for process in running]
        assert [process.returncode for process in running] == [0] * processes
        assert f"trained by {processes} processes" in said[0]
        found[processes] = load_unet(out)
    before = load_unet(tiny_pipeline_dir / "unet")

    def apart(one, other):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        return sum((a - b).square().sum().item() for a, b in pairs)

    assert apart(found[1], found[2]) < 1e-3 * apart(found[1], before)


def test_parts_of_all_processes_are_the_batch():
    class Two(OneProcess):
        num_processes = 2

    parts = []
    for index in range(2):
        accelerator = Two()
        accelerator.process_index = index
        parts += parts_of(11, accelerator, 3)
    rows = [row for part in parts for row in range(11)[part.rows]]
    assert rows == list(range(11))
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert all(part.share > 0 for part in parts)
    with pytest.raises(NasError, match="give at least 6"):
        parts_of(5, accelerator, 3)


def test_an_accelerator_that_counts_parts_as_steps_is_refused():
    with pytest.raises(NasError, match="accumulate="):
        run("robust", accelerator=Accelerator(cpu=True, gradient_accumulation_steps=2))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_accumulating_gives_the_same_losses_and_weights(scenario):
    log, network = run(scenario, learning_rate=1e-4)
    parts, other = run(scenario, learning_rate=1e-4, accumulate=3)
    assert parts.losses == pytest.approx(log.losses, rel=1e-4)
    assert parts.parts == {name: pytest.approx(losses, rel=1e-3, abs=1e-6) for name, losses in log.parts.items()}
    for mine, plain in zip(other.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-3, atol=3e-4)


def test_gradient_checkpointing_gives_the_same_losses_and_is_switched_off_again():
    log, _ = run("robust")
    kept, network = run("robust", gradient_checkpointing=True)
    assert kept.losses == pytest.approx(log.losses, rel=1e-5)
    assert not network.unet.is_gradient_checkpointing


def test_mixed_precision_leaves_the_weights_whole_and_the_network_unwrapped():
    exact, _ = run("robust", steps=2)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    log, network = run("robust", steps=2, accelerator=accelerator)
    assert log.losses != exact.losses
    assert log.losses == pytest.approx(exact.losses, rel=0.1)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert "forward" not in vars(network)
