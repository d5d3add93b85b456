"""The command line as a whole: exit statuses, sentences, JSON and nothing but JSON."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable

import pytest

from nas.cli import _lut, _main
from nas.cli._report import Report
from nas.errors import TableError

Run = Callable[..., object]


def fail_with(error: BaseException) -> Callable[[Namespace], Report]:
    def run(options: Namespace) -> Report:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (TableError("the table\nis broken"), "the table is broken"),
        (OSError(errno.ENOSPC, "No space left on device", "x/lut.yaml"), "no space left on device (x/lut.yaml); free"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "no such file or directory (x)"),
        (OSError("the disk is gone"), "the disk is gone"),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_errors_are_one_sentence(
    nas_command: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str, flags: tuple
) -> None:
    monkeypatch.setattr(_lut, "_show", fail_with(error))
    outcome = nas_command("lut", "show", "x.yaml", *flags)
    assert outcome.status == 1
    assert outcome.err.startswith(f"nas: {sentence}")
    assert outcome.err.count("\n") == 1
    assert outcome.document["error"].startswith(sentence) if flags else outcome.out == ""


def test_interruption_says_how_to_go_on(nas_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lut, "_show", fail_with(KeyboardInterrupt()))
    monkeypatch.setattr(_lut, "_build", fail_with(KeyboardInterrupt()))
    for action, goes_on in ((("show", "x.yaml"), False), (("build", "--space", "sd15", "--out", "x.yaml"), True)):
        outcome = nas_command("lut", *action)
        assert outcome.status == 130
        assert outcome.err.startswith("nas: interrupted")
        assert ("goes on from there" in outcome.err) is goes_on


def test_a_mistake_in_the_program_is_not_hidden(nas_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lut, "_show", fail_with(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        nas_command("lut", "show", "x.yaml")


def test_what_libraries_print_stays_off_stdout(nas_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def chatty(options: Namespace) -> Report:
        print("a library says hello")
        return Report({"answer": 42}, "forty-two")

    monkeypatch.setattr(_lut, "_show", chatty)
    outcome = nas_command("lut", "show", "x.yaml", "--json")
    assert outcome.document == {"answer": 42}
    assert "hello" in outcome.err
    assert nas_command("lut", "show", "x.yaml").out == "forty-two\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("lut",),
        ("demo", "--budget", "fast"),
        ("demo", "--budget", "0%"),
        ("demo", "--ou", "x"),
        ("lut", "build", "--space", "sd15"),
        ("lut", "build", "--space", "sd15", "--out", "x", "--precision", "fp8"),
        ("evolve", "--pipeline", "x", "--lut", "y", "--out", "z", "--budget-ms", "-3"),
        ("generate",),
    ],
)
def test_misuse_is_status_2_and_one_line(nas_command: Run, arguments: tuple) -> None:
    outcome = nas_command(*arguments)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "--help" in outcome.err


@pytest.mark.parametrize(
    "command", [("demo",), ("lut", "build"), ("lut", "show"), ("lut", "validate"), ("evolve",), ("generate",)]
)
def test_every_command_has_help_and_json(nas_command: Run, command: tuple) -> None:
    outcome = nas_command(*command, "--help")
    assert outcome.status == 0
    assert "--json" in outcome.out


def test_parsing_and_importing_nas_load_nothing_heavy() -> None:
    code = "import sys, json, nas; from nas.cli import _main; _main.build_parser(); print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "diffusers", "transformers", "optuna", "pandas", "scipy", "matplotlib"} & {
        *json.loads(done.stdout)
    }


def test_the_parser_is_the_installed_command(nas_command: Run) -> None:
    assert nas_command("--version").out.startswith("nas ")
    assert _main.build_parser().prog == "nas"
