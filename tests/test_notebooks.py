"""Notebooks are written as documents; running them is `notebooks/run.py --smoke`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_are_run_unless_some_are_named(run: ModuleType) -> None:
    assert run.named([]) == NOTEBOOKS
    assert run.named(["build_a_lut"]) == [FOLDER / "build_a_lut.ipynb"]
    assert run.named(["notebooks/build_a_lut.ipynb"]) == [FOLDER / "build_a_lut.ipynb"]
    with pytest.raises(SystemExit, match=r"'nowhere'; there is build_a_lut, evolve_and_pareto, fifty_steps_to_eight"):
        run.named(["nowhere"])


def test_only_a_full_run_writes_outputs(run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    nbformat.write(notebook, tmp_path / "sum.ipynb")
    before = (tmp_path / "sum.ipynb").read_bytes()

    def execute(path: Path, *, smoke: bool) -> nbformat.NotebookNode:
        found = nbformat.read(path, as_version=4)
        result = nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=1)
        found.cells[0].outputs = [result, nbformat.v4.new_output("stream", name="stderr", text="a bar")]
        return found

    monkeypatch.setattr(run, "FOLDER", tmp_path)
    monkeypatch.setattr(run, "execute", execute)
    run.main(["--smoke"])
    assert (tmp_path / "sum.ipynb").read_bytes() == before
    run.main(["sum"])
    (cell,) = nbformat.read(tmp_path / "sum.ipynb", as_version=4).cells
    assert [output.output_type for output in cell.outputs] == ["execute_result"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_reads_as_a_document(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first, *_ = notebook.cells
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert any("NAS_SMOKE" in cell.source for cell in notebook.cells)
    assert any(cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "it was committed without outputs"
