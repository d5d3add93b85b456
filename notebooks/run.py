"""Execute the notebooks in fresh kernels and write their outputs; with --smoke only check that they run."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def execute(path: Path, *, smoke: bool) -> nbformat.NotebookNode:
    """Run all cells in an empty working folder; an error in any of them is raised."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NAS_SMOKE": "1" if smoke else "0"}
        client = NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": folder}})
        client.execute(env=environment)
    return notebook


def without_noise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out times of execution, and stderr with its bars and hints."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main() -> None:
    """Execute every notebook of this folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny settings; nothing is written")
    options = parser.parse_args()
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = execute(path, smoke=options.smoke)
        if not options.smoke:
            nbformat.write(without_noise(notebook), path)
        print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran")


if __name__ == "__main__":
    main()
