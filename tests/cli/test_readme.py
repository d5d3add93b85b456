"""README's Python runs; its commands and those under docs/ are commands, and links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import nas
from nas.cli._main import build_parser

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def hurried(monkeypatch: pytest.MonkeyPatch, name: str, **options: object) -> None:
    """Let a name of the façade be called with some options changed."""
    call = getattr(nas, name)
    monkeypatch.setattr(nas, name, lambda *args, **given: call(*args, **{**given, **options}))


@pytest.mark.usefixtures("known_times")
def test_the_python_example_runs(tiny_bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written, but for a tiny model and table, few prompts and steps, and one round."""
    (example,) = blocks(README, "python")
    assert 10 <= len(example.splitlines()) <= 15
    hurried(monkeypatch, "ClipScore", prompts=["a", "b"], steps=1)
    hurried(monkeypatch, "evolve", group_size=1.0, max_rounds=2)
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    exec(compile(example, "README.md", "exec"), namespace)
    assert namespace["result"].predicted_ms <= namespace["result"].budget_ms
    assert (tmp_path / "apple.png").is_file()
    assert (tmp_path / "pareto.png").is_file()


def test_the_commands_parse() -> None:
    lines = [
        shlex.split(line, comments=True)
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.splitlines()
    ]
    commands = [words[1:] for words in lines if words and Path(words[0]).name == "nas"]
    assert len(commands) >= 6
    for command in commands:
        build_parser().parse_args(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_it_links_to_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", page.read_text("utf-8"))
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []
