from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas import LatencyTable, SearchSpace
from nas.errors import StorageError, TableError
from nas.latency import Pair, Row, Validation, _storage

SharedData = Callable[[str], Path]


@pytest.fixture
def table(fake_table: LatencyTable) -> LatencyTable:
    table = copy.copy(fake_table)
    full, empty = table.space.full, table.space.empty
    pairs = (Pair(str(full), 110.0, 100.0, 0.01), Pair(str(empty), 19.0, 20.0), Pair(str(full), 30.0, 30.5))
    table.validation = Validation(pairs, seed=3, date="2026-01-02T03:04:05Z", slowdown=0.25)
    return table


@pytest.fixture
def saved(table: LatencyTable, tmp_path: Path) -> Path:
    table.save(tmp_path / "table.yaml")
    return tmp_path / "table.yaml"


def test_nothing_is_lost_on_disk(table: LatencyTable, saved: Path) -> None:
    again = LatencyTable.load(saved)
    assert _storage.to_dict(again) == _storage.to_dict(table)
    assert again.rows == table.rows
    assert (again.base, again.wholes, again.workload) == (table.base, table.wholes, table.workload)
    assert again.validation == table.validation
    assert again.space.blocks == table.space.blocks
    assert again.latency_ms(table.space.full) == table.latency_ms(table.space.full)


def test_saving_twice_gives_the_same_file(table: LatencyTable, saved: Path, tmp_path: Path) -> None:
    LatencyTable.load(saved).save(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == saved.read_text()


def test_the_file_is_readable(table: LatencyTable, saved: Path) -> None:
    lines = saved.read_text().splitlines()
    assert lines[0] == "schema: 3"
    rows = [line for line in lines if line.startswith("- {signature: ")]
    assert len(rows) == len(table.rows)
    assert rows == sorted(rows)
    assert yaml.safe_load(saved.read_text())["provenance"]["device"] == "fake"


def test_a_table_without_validation(fake_table: LatencyTable, tmp_path: Path) -> None:
    table = copy.copy(fake_table)
    table.validation = None
    table.save(tmp_path / "t.yaml")
    assert LatencyTable.load(tmp_path / "t.yaml").validation is None


def test_bundled_tables_are_found_by_name(table: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_storage, "latency_tables_dir", lambda: tmp_path)
    table.save(tmp_path / "tiny_fake.yaml")
    assert LatencyTable.load("tiny_fake").rows == table.rows
    with pytest.raises(TableError, match="tiny_fake"):
        LatencyTable.load("tiny_cuda")


def test_a_full_disk_leaves_the_old_table(saved: Path, table: LatencyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_text()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        table.save(saved)
    assert saved.read_text() == before
    assert list(saved.parent.iterdir()) == [saved]


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def edited(text: str) -> str:
        data = yaml.safe_load(text)
        change(data)
        return yaml.safe_dump(data, sort_keys=False)

    return edited


def misspelt_copy(data: dict[str, Any]) -> None:
    extra = next(row for row in data["rows"] if row["signature"].startswith("resnet"))
    data["rows"].append({**extra, "signature": extra["signature"] + " twice"})


def dear_shortcuts(data: dict[str, Any]) -> None:
    """Without times of whole networks, the sum of the rows has to be above the base."""
    data["networks"] = []
    for row in data["rows"]:
        row["latency_ms"] = 100.0 if row["signature"].startswith("shortcut") else 0.1


CORRUPTIONS = {
    "not YAML": (lambda text: "{" + text, "not readable YAML"),
    "cut off": (lambda text: text[: len(text) // 3], "readable YAML|lacks"),
    "empty": (lambda text: "", "mapping"),
    "a list": (lambda text: "- 1", "mapping"),
    "python object": (lambda text: text + "extra: !!python/object/apply:os.getcwd []\n", "not readable YAML"),
    "another schema": (lambda text: text.replace("schema: 3", "schema: 4"), "schema"),
    "a key twice": (lambda text: text.replace("base:\n", "device: fake\nbase:\n"), "'device' stands twice"),
    "unknown field": (edit(lambda d: d.update(colour="red")), "unknown field 'colour'"),
    "missing field": (edit(lambda d: d.pop("workload")), "lacks the field 'workload'"),
    "unknown row field": (edit(lambda d: d["rows"][2].update(colour=1)), r"rows\[2\].*'colour'"),
    "missing row field": (edit(lambda d: d["rows"][2].pop("count")), r"rows\[2\].*'count'"),
    "missing row": (edit(lambda d: d["rows"].pop(0)), "rows lacks 'attention"),
    "unknown row": (
        edit(misspelt_copy),
        "rows has 'resnet .* twice', which no block",
    ),
    "a network below the base": (edit(lambda d: d["networks"][0].update(latency_ms=1e-3)), "above the whole network"),
    "row twice": (edit(lambda d: d["rows"].append(d["rows"][0].copy())), "repeats the signature"),
    "nameless row": (edit(lambda d: d["rows"][1].pop("signature")), r"rows\[1\] has no signature"),
    "rows no list": (edit(lambda d: d.update(rows={})), "rows must be a list"),
    "negative row": (edit(lambda d: d["rows"][3].update(latency_ms=-1.0)), r"rows\[3\].*latency_ms is -1.0"),
    "zero row": (edit(lambda d: d["rows"][3].update(latency_ms=0)), r"rows\[3\].*latency_ms is 0"),
    "NaN row": (edit(lambda d: d["rows"][3].update(latency_ms=float("nan"))), r"rows\[3\].*latency_ms is nan"),
    "a network of no time": (edit(lambda d: d["networks"][0].update(latency_ms=0)), r"networks\[0\] .*latency_ms is 0"),
    "a network twice": (edit(lambda d: d["networks"].append(d["networks"][0])), "repeats the architecture"),
    "a network of another space": (
        edit(lambda d: d["networks"][0].update(architecture="mid.resnet=1")),
        "not of the search space",
    ),
    "infinite row": (edit(lambda d: d["rows"][3].update(latency_ms=float("inf"))), r"rows\[3\].*latency_ms is inf"),
    "endless row": (edit(lambda d: d["rows"][3].update(latency_ms=10**400)), r"rows\[3\].*not a number"),
    "negative spread": (edit(lambda d: d["rows"][3].update(spread_ms=-0.1)), r"rows\[3\].*spread_ms is -0.1"),
    "NaN drift": (edit(lambda d: d["rows"][3].update(drift=float("nan"))), r"rows\[3\].*drift is nan"),
    "half a run": (edit(lambda d: d["rows"][3].update(count=2.5)), r"rows\[3\].*count is 2.5"),
    "negative base": (edit(lambda d: d["base"].update(latency_ms=-1.0)), "base.latency_ms is -1.0"),
    "shortcuts above their blocks": (edit(lambda d: dear_shortcuts(d)), "above the whole network"),
    "unknown base field": (edit(lambda d: d["base"].update(mean_ms=1.0)), "base has the unknown field 'mean_ms'"),
    "unknown workload field": (edit(lambda d: d["workload"].update(steps=8)), "workload has the unknown field 'steps'"),
    "infinite base": (edit(lambda d: d["base"].update(latency_ms=float("inf"))), "base.latency_ms is inf"),
    "text row": (edit(lambda d: d["rows"][3].update(latency_ms="fast")), r"rows\[3\]"),
    "true row": (edit(lambda d: d["rows"][3].update(latency_ms=True)), r"rows\[3\]"),
    "null row": (edit(lambda d: d["rows"][3].update(latency_ms=None)), r"rows\[3\]"),
    "no batch": (edit(lambda d: d["workload"].update(batch_size=0)), "workload.batch_size"),
    "text batch": (edit(lambda d: d["workload"].update(batch_size="2")), "workload.batch_size"),
    "list precision": (edit(lambda d: d["workload"].update(precision=[])), "workload"),
    "other precision": (edit(lambda d: d["workload"].update(precision="int4")), "workload.precision"),
    "no provenance": (edit(lambda d: d.update(provenance=None)), "provenance"),
    "NaN provenance": (edit(lambda d: d["provenance"].update(canary_ms=float("nan"))), "provenance.canary_ms is nan"),
    "nested provenance": (edit(lambda d: d["provenance"].update(os={"a": 1})), "provenance.os"),
    "other device": (edit(lambda d: d.update(device="torch-cuda")), "provenance.device"),
    "other space": (edit(lambda d: d["space"]["blocks"][0].update(out_channels=999)), "rows lacks"),
    "base above the whole": (edit(lambda d: d["base"].update(latency_ms=1e9)), "base is .* above the whole network"),
    "damaged space": (edit(lambda d: d["space"].pop("blocks")), "blocks"),
    "null space": (edit(lambda d: d.update(space=None)), "space"),
    "no pairs": (edit(lambda d: d["validation"].update(pairs=[])), "validation"),
    "negative pair": (edit(lambda d: d["validation"]["pairs"][1].update(measured_ms=-3)), r"validation.pairs\[1\]"),
    "unreadable pair": (edit(lambda d: d["validation"]["pairs"][1].update(architecture="x")), "architecture"),
    "numeric pair": (edit(lambda d: d["validation"]["pairs"][1].update(architecture=5)), "architecture"),
    "foreign pair": (edit(lambda d: d["validation"]["pairs"][1].update(architecture="mid.resnet=1")), "architecture"),
    "text drift": (edit(lambda d: d["validation"]["pairs"][1].update(drift="little")), r"validation.pairs\[1\]"),
    "text slowdown": (edit(lambda d: d["validation"].update(slowdown="slow")), "slowdown is 'slow'"),
    "impossible slowdown": (edit(lambda d: d["validation"].update(slowdown=-1.0)), "slowdown is -1.0"),
    "flattering figures": (edit(lambda d: d["validation"].update(mean_error=0.001)), "validation.mean_error"),
    "NaN figures": (edit(lambda d: d["validation"].update(mean_error=float("nan"))), "validation.mean_error is nan"),
    "text figures": (edit(lambda d: d["validation"].update(mean_error="good")), "validation.mean_error"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_is_reported_with_file_and_field(saved: Path, name: str) -> None:
    corrupt, message = CORRUPTIONS[name]
    saved.write_text(corrupt(saved.read_text()))
    with pytest.raises(TableError, match=message) as caught:
        LatencyTable.load(saved)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_binary_is_not_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(TableError, match=r"t\.yaml"):
        LatencyTable.load(tmp_path / "t.yaml")


@pytest.mark.parametrize("path", ["nowhere.yaml", "", "."])
def test_a_missing_table_is_reported(path: str) -> None:
    with pytest.raises(TableError, match="no latency table"):
        LatencyTable.load(path)


def test_the_space_travels_with_the_table(saved: Path, tiny_space: SearchSpace) -> None:
    space = LatencyTable.load(saved).space
    assert (space.name, space.parameters) == (tiny_space.name, tiny_space.parameters)


def test_negative_times_of_a_real_table_are_all_refused(shared_data: SharedData) -> None:
    published = json.loads(shared_data("latency_tfnas/latency_cpu.json").read_text(encoding="utf-8"))
    times = [ms for widths in published.values() if isinstance(widths, dict) for ms in widths.values()]
    refused = 0
    for ms in times:
        try:
            Row(ms, 0.0, 1)
        except TableError:
            refused += 1
    assert refused == sum(ms <= 0 for ms in times) == 84


def test_a_file_with_a_real_tables_negative_times_is_refused(
    fake_table: LatencyTable, tmp_path: Path, shared_data: SharedData
) -> None:
    published = json.loads(shared_data("latency_tfnas/latency_cpu.json").read_text(encoding="utf-8"))
    table, path = copy.copy(fake_table), tmp_path / "cpu.yaml"
    table.save(path)
    sound = {name: w for name, w in published.items() if isinstance(w, dict) and min(w.values()) > 0}
    unsound = {name: w for name, w in published.items() if isinstance(w, dict) and min(w.values()) <= 0}
    for widths in ({name: dict(list(w.items())[:20]) for name, w in part.items()} for part in (sound, unsound)):
        data = yaml.safe_load(path.read_text())
        rows = [(f"{name} {width}", ms) for name, all_ms in widths.items() for width, ms in all_ms.items()]
        data["rows"] += [{"signature": n, "latency_ms": ms, "spread_ms": 0, "count": 1, "drift": 0} for n, ms in rows]
        broken = tmp_path / "broken.yaml"
        broken.write_text(yaml.safe_dump(data))
        wrong = f"{rows[0][0]}', which no block"
        first = next((f"{name}).latency_ms is {ms}" for name, ms in rows if ms <= 0), wrong)
        with pytest.raises(TableError, match=r"broken\.yaml") as caught:
            LatencyTable.load(broken)
        assert first in str(caught.value)


def test_another_projects_file_is_no_table(shared_data: SharedData) -> None:
    with pytest.raises(TableError, match=r"latency_cpu\.json: schema is None"):
        LatencyTable.load(shared_data("latency_tfnas/latency_cpu.json"))
