"""`benchmarks/sd15_stages.py` on a space that takes a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_scripts import script
from small_training import make_space

STAGES = ["v_prediction", "robust", "steps", "folded_steps", "decoder"]


def benchmark(folder: Path, *options: str, stages: list[str]) -> tuple[list[dict], str]:
    """The rows of the report, and what was printed."""
    space, report = folder / "small.yaml", folder / "report.json"
    make_space().save(space)
    options = ["--space", str(space), "--json", str(report), "--stages", *stages, *options]
    command = [sys.executable, str(script("sd15_stages")), *options]
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, check=True)
    return json.loads(report.read_text())["stages"], done.stdout.decode()


@pytest.mark.slow
def test_every_stage_runs_in_a_process_of_its_own(tmp_path):
    rows, printed = benchmark(tmp_path, stages=STAGES)
    assert [row["stage"] for row in rows] == STAGES
    for row in rows:
        assert row["outcome"] == "done"
        assert row["steps"] == len(row["losses"]) == 3
        assert row["seconds_per_step"] > 0
        assert 0 < row["measured_gib"] < 4
        assert row["stage"] in printed


def test_a_stage_in_mixed_precision(tmp_path):
    [row], printed = benchmark(tmp_path, "--precision", "mixed", "--no-gradient-checkpointing", stages=["steps"])
    assert row["outcome"] == "done"
    assert "unasked" in printed


def test_a_stage_in_float32(tmp_path):
    [row], _ = benchmark(tmp_path, "--precision", "full", stages=["folded_steps"])
    assert row["outcome"] == "done"


def test_a_stage_that_cannot_start_is_told(tmp_path):
    [row], printed = benchmark(tmp_path, "--batch-size", "0", stages=["robust"])
    assert "batch_size" in row["outcome"]
    assert row["outcome"] in printed
