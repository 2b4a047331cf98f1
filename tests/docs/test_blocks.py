"""Every code block of the documentation and of the README runs.

The blocks of one file run in their order, in one fresh module. How a block runs follows from its
language:

- `python` is executed, `pycon` is run as a doctest, `json` is parsed;
- `html+jinja` is compiled as a template; with a `:caption:` (in Markdown: a file name after the
  language) it is also the template of that name, which the file's other blocks may render;
- `javascript` is a module: Node finds no fault in its syntax;
- `nginx` is part of a configuration: its blocks are closed, and its directives end;
- `console` holds shell commands: they are not run, but the targets and files that they name exist.

A block in another language, or one that this module would miss, is an error.
"""

from __future__ import annotations

import doctest
import json
import re
import shlex
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import gunicorn.config
import jinja2
import pytest
import sqlalchemy
from babel.messages.frontend import CommandLineInterface

from flask_fsm.cli import fsm as commands

from ..live.node_client import node

ROOT = Path(__file__).parents[2]
FILES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.rst") if "_build" not in path.parts),
]
LANGUAGES = {"python", "pycon", "json", "html+jinja", "javascript", "nginx", "console"}


class Block(NamedTuple):
    """A code block: where it begins, in which language, and the file that it is, or None."""

    line: int
    language: str
    name: str | None
    text: str


def blocks_of(path: Path) -> Iterator[Block]:
    """Find the code blocks of a file."""
    lines = path.read_text().splitlines()
    return _fences(lines) if path.suffix == ".md" else _directives(lines)


def _fences(lines: list[str]) -> Iterator[Block]:
    at = 0
    while at < len(lines):
        if lines[at].lstrip().startswith("```"):
            language, _, name = lines[at].strip("` ").partition(" ")
            end = lines.index("```", at + 1)
            yield Block(at + 2, language, name or None, "\n".join(lines[at + 1 : end]) + "\n")
            at = end
        at += 1


def _directives(lines: list[str]) -> Iterator[Block]:
    for at, line in enumerate(lines):
        match = re.match(r"( *)\.\. code-block::\s*(\S*)", line)
        if match is None:
            continue
        body = []
        for inner in lines[at + 1 :]:
            if inner.strip() and not inner.startswith(match[1] + " "):
                break
            body.append(inner)
        options = []
        while body and body[0].strip():
            options.append(body.pop(0))
        name = next((o.split(":caption:")[1].strip() for o in options if ":caption:" in o), None)
        text = textwrap.dedent("\n".join(body)).strip("\n") + "\n"
        yield Block(at + 1 + len(options) + 2, match[2], name, text)


@pytest.fixture
def module(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """Make a fresh module, which Flask takes for a file in an empty folder."""
    module = ModuleType("the_blocks")
    module.__file__ = str(tmp_path / "the_blocks.py")
    sys.modules[module.__name__] = module
    opened: list[sqlite3.Connection] = []

    def note(connection: sqlite3.Connection, record: object) -> None:
        opened.append(connection)

    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "connect", note)
    yield module
    sqlalchemy.event.remove(sqlalchemy.pool.Pool, "connect", note)
    # A reader's process would end here; from Python 3.13 on, one that goes on is warned of these.
    opened += [value for value in vars(module).values() if isinstance(value, sqlite3.Connection)]
    for connection in opened:
        connection.close()
    del sys.modules[module.__name__]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_runs(path: Path, module: ModuleType) -> None:
    """Every code block of the file does what it says."""
    blocks = list(blocks_of(path))
    for block in blocks:
        if block.language == "html+jinja" and block.name is not None:
            template = Path(str(module.__file__)).parent / "templates" / block.name
            template.parent.mkdir(parents=True, exist_ok=True)
            template.write_text(block.text)
    for block in blocks:
        where = f"{path.relative_to(ROOT)}, line {block.line}"
        assert block.language in LANGUAGES, f"{where}: no way to run {block.language!r}"
        run(block, path, module, where)


def run(block: Block, path: Path, module: ModuleType, where: str) -> None:
    if block.language == "python":
        text = "\n" * (block.line - 1) + block.text  # so that a traceback shows the right line
        exec(compile(text, str(path), "exec"), module.__dict__)
    elif block.language == "pycon":
        examples = doctest.DocTestParser().get_doctest(
            block.text, module.__dict__, where, str(path), block.line - 1
        )
        # Not a copy, in which a function of one block would not see what the next one changes.
        examples.globs = module.__dict__
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
        report: list[str] = []
        runner.run(examples, out=report.append, clear_globs=False)
        assert not runner.failures, "".join(report)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "html+jinja":
        jinja2.Environment(extensions=["jinja2.ext.do"], autoescape=True).parse(block.text)
    elif block.language == "javascript":
        script = Path(str(module.__file__)).with_name("block.mjs")
        script.write_text(block.text)
        checked = subprocess.run([node(), "--check", script], capture_output=True, text=True)
        assert checked.returncode == 0, f"{where}: {checked.stderr}"
    elif block.language == "nginx":
        check_nginx(block.text, where)
    else:
        for line in block.text.splitlines():
            check_command(line, where)


def check_nginx(text: str, where: str) -> None:
    """Assert that each line of a configuration of nginx opens or closes a block, or is whole."""
    depth = 0
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        assert line[-1] in "{};", f"{where}: {line!r} has no end"
        depth += line.endswith("{") - line.endswith("}")
        assert depth >= 0, f"{where}: {line!r} closes no block"
    assert depth == 0, f"{where}: a block is not closed"


def check_command(line: str, where: str) -> None:
    """Assert that what a shell command names is there."""
    words = shlex.split(line.removeprefix("$ "), comments=True)
    match words:
        case []:
            pass
        case ["make", target, *settings]:
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), where
            for setting in settings:
                variable = setting.partition("=")[0]
                assert re.search(rf"^{variable} \?=", makefile, re.MULTILINE), where
        case ["python3", "-m", "venv", ".venv"]:
            pass
        case ["pip" | ".venv/bin/pip", "install", project] | [
            ".venv/bin/python",
            "-m",
            "pip",
            "install",
            project,
        ]:
            name, _, extra = project.partition("[")
            assert (ROOT / name / "pyproject.toml").is_file(), where
            assert not extra or extra.rstrip("]") in (ROOT / "pyproject.toml").read_text(), where
        case ["flask" | ".venv/bin/flask", "--app", "example_app", "run", *_]:
            assert (ROOT / "example_app" / "__init__.py").is_file(), where
        case ["flask", "--app", "app" | "live", "run"] | ["ulimit", "-n", _]:
            pass
        case ["curl", *_, address]:
            assert re.fullmatch(r"http://127\.0\.0\.1:5000/fsm/\w+/(events|state)", address), where
        case ["flask", "fsm", name, *options] | ["flask", "--app", "app", "fsm", name, *options]:
            commands.commands[name].make_context(name, options).close()
        case ["export", *settings]:
            assert all(re.match(r"FLASK_[A-Z_]+=", setting) for setting in settings), where
        case ["pybabel", name, *_]:
            assert name in CommandLineInterface.commands, where
        case ["gunicorn", *options, application]:
            gunicorn.config.Config().parser().parse_args(options)
            assert application == "app:app", where
        case ["python", "-c", code]:
            compile(code, where, "exec")
        case [command] if command.startswith(".ci/"):
            assert (ROOT / command).is_file(), where
        case _:
            pytest.fail(f"{where}: no way to check the command {line!r}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_escapes(path: Path) -> None:
    """There is no code in a form that the test above would not find."""
    text = path.read_text()
    found = "".join(block.text for block in blocks_of(path))
    prompts = re.compile(r"^\s*>>> ", re.MULTILINE)
    assert len(prompts.findall(text)) == len(prompts.findall(found))
    if path.suffix == ".rst":
        assert not re.search(r"^(?!\s*\.\. ).*::$", text, re.MULTILINE), "a literal block"
        assert not re.search(r"\.\. (literalinclude|sourcecode|code|parsed-literal)::", text)
