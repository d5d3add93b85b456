"""`nas lut` on a space small enough to be measured in a second or so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nas import LatencyTable, SearchSpace
from nas.cli._lut import DEVICES
from nas.demo import SMOKE
from nas.errors import StorageError
from nas.latency.devices import device_names

Run = Callable[..., object]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands measure each thing once."""
    monkeypatch.setattr("nas.latency._table.Timing", lambda: SMOKE.timing)


def test_help_names_every_device() -> None:
    assert set(DEVICES) == set(device_names())


@pytest.fixture(scope="session")
def small_space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space of two resolutions, as a file."""
    config = {
        "sample_size": 4,
        "block_out_channels": (4, 8),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 4,
        "attention_head_dim": 2,
        "norm_num_groups": 2,
    }
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    SearchSpace.from_config(config, name="small", context_length=3).save(path)
    return path


@pytest.fixture
def table(nas_command: Run, small_space: Path, tmp_path: Path) -> Path:
    path = tmp_path / "lut.yaml"
    assert nas_command("lut", "build", "--space", small_space, "--threads", 1, "--out", path).status == 0
    return path


def test_what_was_measured_is_not_lost_when_the_table_cannot_be_written(
    nas_command: Run, small_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise StorageError("no space left")

    command = "lut", "build", "--space", small_space, "--threads", 1, "--out", tmp_path / "lut.yaml"
    with monkeypatch.context() as patched:
        patched.setattr(LatencyTable, "save", full_disk)
        assert nas_command(*command).status == 1
    visits = tmp_path / "lut.yaml.visits"

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was measured before")

    with monkeypatch.context() as patched:
        patched.setattr("nas.latency._bench.visit", never)
        assert nas_command(*command).status == 0
    assert LatencyTable.load(tmp_path / "lut.yaml").base_ms > 0
    assert not visits.exists(), "the next measurement is to be a new one"


def test_build_writes_a_table_that_loads(nas_command: Run, small_space: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "lut.yaml"
    options = ("--batch-size", 3, "--held-out", 2, "--seed", 9)
    outcome = nas_command("lut", "build", "--space", small_space, *options, "--out", path, "--json")
    lut = LatencyTable.load(path)
    assert outcome.document["file"] == str(path)
    assert outcome.document["full_ms"] == pytest.approx(lut.latency_ms(lut.space.full))
    assert (lut.workload.batch_size, lut.space.name, lut.device) == (3, "small", "torch-cpu")
    assert (len(lut.validation.pairs), lut.validation.seed) == (2, 9)
    assert outcome.document["validation"]["mean_error"] == lut.validation.mean_error


def test_show_prints_every_row(nas_command: Run, table: Path) -> None:
    lut = LatencyTable.load(table)
    text = nas_command("lut", "show", table).out
    assert all(signature in text for signature in lut.rows)
    assert lut.provenance["hardware"] in text
    assert "not validated" in text
    document = nas_command("lut", "show", table, "--json").document
    assert document["rows"].keys() == lut.rows.keys()
    assert document["base_ms"] == lut.base_ms
    assert document["validation"] is None


def test_show_says_where_the_time_goes(nas_command: Run, table: Path, tmp_path: Path) -> None:
    lut, picture = LatencyTable.load(table), tmp_path / "new" / "bars.png"
    document = nas_command("lut", "show", table, "--json", "--plot", picture).document
    parts = document["breakdown"]
    assert sum(part["latency_ms"] for part in parts) == pytest.approx(document["full_ms"])
    assert sum(part["parameters"] for part in parts) == lut.space.parameters
    assert {part["kind"] for part in parts} == {"attention", "resnet", "base"}
    assert document["plot"] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = nas_command("lut", "show", table).out
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["where", "the", "time", "goes", "blocks", "ms", "share", "params", "M", "GMACs"]
    (whole,) = [line for line in lines if line[:3] == ["the", "full", "network"] and "%" in line[5]]
    assert whole[3:6] == [str(len(lut.space.blocks)), f"{document['full_ms']:.3f}", "100.0%"]
    assert f"{lut.space.parameters / 1e6:.2f}" in whole


def test_diff_compares_two_tables(nas_command: Run, table: Path, small_space: Path, tmp_path: Path) -> None:
    lut, other = LatencyTable.load(table), tmp_path / "other.yaml"
    rows = {
        name: replace(row, latency_ms=row.latency_ms * (3 if name.startswith("attention") else 1))
        for name, row in lut.rows.items()
    }
    replace(lut, rows=rows, wholes={}, provenance={**lut.provenance, "threads": 8}).save(other)
    replace(lut, wholes={}).save(table)
    document = nas_command("lut", "diff", table, other, "--json").document
    assert document["full"]["ratio"] == pytest.approx(document["full"]["b_ms"] / document["full"]["a_ms"])
    assert document["base"]["ratio"] == 1
    assert document["conditions"] == {"threads": {"a": lut.provenance["threads"], "b": 8}}
    assert {row["signature"]: row["ratio"] for row in document["rows"]} == pytest.approx(
        {name: 3.0 if name.startswith("attention") else 1.0 for name in rows}
    )
    assert set(document["dearer_on_b"]) == {name for name in rows if name.startswith("attention")}
    text = nas_command("lut", "diff", table, other).out
    assert all(name in text for name in rows)
    assert f"{document['full']['ratio']:.2f} times as long on B" in text
    same = nas_command("lut", "diff", table, table).out
    assert "same conditions" in same
    assert "No block is relatively dearer" in same


def test_diff_of_two_spaces_is_one_sentence(
    nas_command: Run, small_space: Path, tiny_table: Path, tmp_path: Path
) -> None:
    other = tmp_path / "small.yaml"
    nas_command("lut", "build", "--space", small_space, "--threads", 1, "--out", other)
    outcome = nas_command("lut", "diff", tiny_table, other)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "different search spaces" in outcome.err


@pytest.mark.parametrize("canary_ms", [1e-3, 1e3])
def test_validate_says_that_the_machine_no_longer_agrees(nas_command: Run, table: Path, canary_ms: float) -> None:
    # As if the table had been measured on a machine that is out of all proportion faster, or slower; it knows no whole
    # network that would say so.
    data = yaml.safe_load(table.read_text())
    data["provenance"]["canary_ms"] = canary_ms
    data["networks"] = []
    table.write_text(yaml.safe_dump(data))
    outcome = nas_command("lut", "validate", table, "--networks", 2, "--json")
    assert outcome.status == 0
    assert outcome.document["agrees"] is False
    assert (outcome.document["drift"] > 0) == (canary_ms < 1)
    assert "does not agree with the table" in outcome.document["verdict"]


def test_a_validation_is_not_lost_to_a_machine_of_another_speed(nas_command: Run, table: Path) -> None:
    first = nas_command("lut", "validate", table, "--networks", 2, "--json").document
    assert first["stored"] is True
    data = yaml.safe_load(table.read_text())
    data["provenance"]["canary_ms"], data["networks"] = 1e3, []
    table.write_text(yaml.safe_dump(data))
    before = LatencyTable.load(table).validation
    outcome = nas_command("lut", "validate", table, "--networks", 3)
    assert "does not agree" in outcome.out
    assert f"{table} keeps the validation that it had" in outcome.out
    assert LatencyTable.load(table).validation == before


def test_validate_prints_fractions_and_keeps_them_in_the_table(nas_command: Run, table: Path) -> None:
    document = nas_command("lut", "validate", table, "--networks", 3, "--seed", 7, "--json").document
    assert {"mean_error", "worst_error", "within_5", "within_10", "spearman"} <= document.keys()
    assert 0 <= document["within_5"] <= document["within_10"] <= 1
    assert document["mean_error"] <= document["worst_error"]
    kept = LatencyTable.load(table).validation
    assert (len(kept.pairs), kept.seed) == (3, 7)
    assert kept.mean_error == pytest.approx(document["mean_error"])
    assert "rank correlation" in nas_command("lut", "show", table).out


@pytest.mark.parametrize("text", ["", "{", "rows: [1", "schema: 99", "- 1"])
def test_a_damaged_table_is_one_sentence_and_is_left_alone(nas_command: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "lut.yaml"
    path.write_text(text)
    for command in ("show", "validate"):
        outcome = nas_command("lut", command, path)
        assert (outcome.status, outcome.err.count("\n")) == (1, 1)
        assert "lut.yaml" in outcome.err
    assert path.read_text() == text


@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan")])
def test_an_impossible_row_is_refused(nas_command: Run, table: Path, value: float) -> None:
    data = yaml.safe_load(table.read_text())
    data["rows"][0]["latency_ms"] = value
    table.write_text(yaml.safe_dump(data))
    outcome = nas_command("lut", "show", table)
    assert outcome.status == 1
    assert "latency_ms" in outcome.err


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (("--space", "sd99"), "sd15"),
        (("--device", "abacus"), "abacus"),
        (("--out", "/proc/nowhere/lut.yaml"), "/proc/nowhere"),
    ],
)
def test_what_build_cannot_do_is_one_sentence(
    nas_command: Run, small_space: Path, tmp_path: Path, changes: tuple, word: str
) -> None:
    arguments = {"--space": small_space, "--out": tmp_path / "lut.yaml", "--threads": 1, **dict([changes])}
    outcome = nas_command("lut", "build", *(item for pair in arguments.items() for item in pair))
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert word in outcome.err


def test_no_space_on_disk_leaves_the_old_table(nas_command: Run, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = table.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    outcome = nas_command("lut", "validate", table, "--networks", 2)
    assert outcome.status == 1
    assert "o space left" in outcome.err
    assert table.read_bytes() == before
    # What was measured is in the second one; of the table there is nothing half written.
    assert {path.name for path in table.parent.iterdir()} <= {"lut.yaml", "lut.yaml.validation"}
