"""The house stands as the documentation draws it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import flask_fsm
import flask_fsm.channels

PACKAGE = Path(flask_fsm.__file__).parent


def test_imports_point_down() -> None:
    """The import contracts of setup.cfg hold."""
    # A process of its own, since it switches off the loggers of the one that it runs in.
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_there_and_documented() -> None:
    """What the package exports exists, and says what it is."""
    for module in (flask_fsm, flask_fsm.channels):
        for name in module.__all__:
            assert getattr(module, name).__doc__, name


def test_no_module_keeps_global_mutable_state() -> None:
    """A module binds constants, functions and classes: nothing assigns to a global later."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Global) for node in ast.walk(tree)), path
