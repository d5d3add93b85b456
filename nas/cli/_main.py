"""The parser, and the one place where errors become sentences."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import NoReturn

import nas
from nas.cli import _compress, _demo, _evaluate, _evolve, _generate, _image, _lut
from nas.errors import NasError

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and where the help is, instead of printing the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 for an error of the library or the system, 2 for misuse."""
    options = build_parser().parse_args(arguments)
    try:
        # Whatever a library prints on its own goes to stderr: stdout holds the report and nothing else.
        with redirect_stdout(sys.stderr):
            report = options.run(options)
        print(report.to_json() if options.json else report.text, flush=True)
    except (NasError, OSError) as error:
        return _fail(_sentence(error), options)
    except KeyboardInterrupt:
        advice = "; what was finished is kept, and the same command goes on from there" if options.resumes else ""
        _fail(f"interrupted{advice}", options)
        return INTERRUPTED
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command `nas` with all its subcommands."""
    parser = _Parser(prog="nas", description=nas.__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"nas {nas.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for room in (_demo, _lut, _image, _evolve, _compress, _evaluate, _generate):
        room.add_to(commands)
    return parser


def _fail(sentence: str, options: argparse.Namespace) -> int:
    print(f"nas: {sentence}", file=sys.stderr)
    if options.json:
        print(json.dumps({"error": sentence}))
    return FAILED


def _sentence(error: NasError | OSError) -> str:
    if isinstance(error, NasError) or not error.strerror:
        return " ".join(str(error).split())
    if isinstance(error, BrokenPipeError):
        # Nobody reads stdout any more; keep the interpreter from failing again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    where = f" ({error.filename})" if error.filename else ""
    advice = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
    return f"{error.strerror[0].lower()}{error.strerror[1:]}{where}{advice}"
