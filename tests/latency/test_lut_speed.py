"""That the benchmark runs and scores what it says; how fast is not for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmark_scripts import script


def test_the_benchmark_reports_rates_and_the_machine(tmp_path: Path) -> None:
    options = ["--architectures", "3000", "--repeats", "2", "--json", tmp_path / "speed.json"]
    done = subprocess.run([sys.executable, script("lut_speed"), *options], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "speed.json").read_text())
    assert (figures["space"], figures["places"], figures["table"]) == ("sd15", 38, "synthetic")
    assert figures["machine"]["hardware"]
    for name in ("int64", "int8"):
        assert figures[f"{name}_per_processor_second"] > 0
        assert f"{name}_per_second" in done.stdout
