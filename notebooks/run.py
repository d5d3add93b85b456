"""Execute notebooks in fresh kernels and write their outputs; with --smoke only check that they run."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def execute(path: Path, *, smoke: bool) -> nbformat.NotebookNode:
    """Run all cells in an empty working folder; an error in any of them is raised."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NAS_SMOKE": "1" if smoke else "0"}
        # A cell may take an hour, all that a smoke run does is tiny.
        client = NotebookClient(notebook, timeout=1800 if smoke else None, resources={"metadata": {"path": folder}})
        client.execute(env=environment)
    return notebook


def without_noise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out times of execution, and stderr with its bars and hints."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def named(names: Sequence[str]) -> list[Path]:
    """The notebooks of these names, with or without their ending; all of this folder where none is named.

    Raises:
        SystemExit: there is none of that name; the message lists those that there are.
    """
    known = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    stems = [Path(name).stem for name in names]
    if unknown := [stem for stem in stems if stem not in known]:
        raise SystemExit(f"there is no notebook {unknown[0]!r}; there is {', '.join(known)}")
    return [known[stem] for stem in stems or known]


def main(arguments: Sequence[str] | None = None) -> None:
    """Execute some notebooks of this folder, or every one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="which (default: all of this folder)")
    parser.add_argument("--smoke", action="store_true", help="tiny settings; nothing is written")
    options = parser.parse_args(arguments)
    for path in named(options.notebooks):
        begin = time.monotonic()
        notebook = execute(path, smoke=options.smoke)
        if not options.smoke:
            nbformat.write(without_noise(notebook), path)
        cells = sum(cell.cell_type == "code" for cell in notebook.cells)
        print(f"{path.name}: {cells} cells ran in {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
