"""The package is built as the documentation draws it."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_fsm
import flask_fsm.channels

PACKAGE = Path(flask_fsm.__file__).parent
MODULES = {
    ".".join(["flask_fsm", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in PACKAGE.rglob("*.py")
}
LONGEST = 450

# Private names that are the documented interface of somebody else, or have no public one.
THIRD_PARTY = {
    "_replace": "of a named tuple",
    "_asdict": "of a named tuple",
    "_fields": "of a named tuple; of a form of WTForms, by the name of each field",
    "_get_current_object": "of a proxy of Werkzeug",
    "_converters": "of a rule of Werkzeug: its public way builds a whole URL",
    "_after_request_functions": "of a context of Flask: no request runs in which they would",
}
# What core reads by an index: sequences, and not records.
SEQUENCES = {
    "pairs[0]": "the first of many",
    "pairs[0][0]": "the name in a pair of JSON, as a hook of the decoder gets it",
    "field.partition('.')[0]": "str.partition",
    "field.partition('.')[0].partition('[')[0]": "str.partition",
    "reasons[0]": "the first of many",
    "about.splitlines()[0]": "the first of many",
    "error.args[0]": "the first of many",
    "made[-1]": "the last of many",
    "ahead[state][0]": "the first of many",
    "path[-1]": "the last of many",
    "pages[-1]": "the last of many",
    "cut[-1]": "the last of many",
    "nodes[0]": "the first of many",
    "targets[0]": "the first of many",
    "self._ends[-1]": "the last of many",
    "sources[0]": "the first of many",
    "states[0]": "the first of many",
    "entries[-1]": "the last of many",
}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_imports_point_down() -> None:
    """The import contracts of setup.cfg hold."""
    # A process of its own, since it switches off the loggers of the one that it runs in.
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def imports(module: str, path: Path) -> Iterator[str]:
    """Yield the modules of the package that a module imports, also those for type checkers."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found = f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
                if found in MODULES:
                    yield found


def test_no_module_imports_itself_by_way_of_others() -> None:
    """There is no cycle of imports, also where those for type checkers count."""
    graph = {module: set(imports(module, path)) - {module} for module, path in MODULES.items()}
    assert graph["flask_fsm.errors"] == {
        "flask_fsm.codes",
        "flask_fsm.texts",
    }  # the parser of imports works
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_no_module_is_too_long() -> None:
    """What is longer than a few screens has more than one subject."""
    long = [name for name, path in MODULES.items() if len(path.read_text().splitlines()) > LONGEST]
    assert long == []


def private_reads(path: Path) -> Iterator[str]:
    """Yield the attributes with a private name that a module reads and does not define."""
    nodes = list(ast.walk(tree(path)))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    own = {
        attribute.attr
        for attribute in attributes
        if isinstance(attribute.value, ast.Name) and attribute.value.id in ("self", "cls")
    }
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            own.add(node.value)  # of __slots__
    for node in attributes:
        name = node.attr
        private = name.startswith("_") and not name.startswith("__")
        if private and name not in own and name not in THIRD_PARTY:
            yield f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}"


def test_no_module_reads_what_is_private_to_another() -> None:
    """An attribute whose name begins with an underscore is for the module that defines it."""
    assert [read for path in MODULES.values() for read in private_reads(path)] == []


def numeric_reads(path: Path) -> Iterator[str]:
    """Yield the subscripts of a module whose index is a number in the source."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Subscript):
            number = node.slice.operand if isinstance(node.slice, ast.UnaryOp) else node.slice
            if isinstance(number, ast.Constant) and isinstance(number.value, int):
                yield ast.unparse(node)


def test_no_module_binds_a_lock_before_gevent_can_replace_it() -> None:
    """`gunicorn --preload` imports the package first, and a lock of before stops a whole worker."""
    bound = {
        f"{module}: {alias.name}"
        for module, path in MODULES.items()
        if not module.startswith("flask_fsm.testing")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.module in ("threading", "_thread")
        for alias in node.names
        if not alias.name.isupper()
    }
    assert bound == set()


def test_core_reads_records_by_the_names_of_their_fields() -> None:
    """Snapshots, nodes and results are read as `node.page`, and not as `node[1]`."""
    reads = {read for path in (PACKAGE / "core").rglob("*.py") for read in numeric_reads(path)}
    assert reads == set(SEQUENCES)


def test_every_public_name_is_there_and_documented() -> None:
    """What the package exports exists, and has a docstring."""
    for module in (flask_fsm, flask_fsm.channels):
        for name in module.__all__:
            assert getattr(module, name).__doc__, name


def test_no_module_keeps_global_mutable_state() -> None:
    """A module binds constants, functions and classes: nothing assigns to a global later."""
    for path in MODULES.values():
        assert not any(isinstance(node, ast.Global) for node in ast.walk(tree(path))), path


def assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr | None, bool]]:
    """Yield the attributes of `self` that a statement sets: name, value, whether it has a type."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    elif isinstance(node, ast.Assign):
        targets = [
            each
            for target in node.targets
            for each in (target.elts if isinstance(target, ast.Tuple) else [target])
        ]
    for target in targets:
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
            value = node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
            yield target.attr, value, isinstance(node, ast.AnnAssign)


def untyped_attributes(path: Path, typed: dict[str, set[str]]) -> Iterator[str]:
    """Yield the public attributes of a module's classes whose type a checker has to infer."""
    for owner in [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]:
        bases = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in owner.bases]
        known = typed[owner.name].union(*(typed.get(base, set()) for base in bases))
        slotted = "__slots__" in ast.unparse(owner)
        for function in [node for node in owner.body if isinstance(node, ast.FunctionDef)]:
            parameters = {each.arg for each in (*function.args.args, *function.args.kwonlyargs)}
            for node in ast.walk(function):
                for name, value, _ in assigned(node):
                    is_given = isinstance(value, ast.Name) and value.id in parameters
                    if not (name.startswith("_") or name in known or (is_given and not slotted)):
                        yield f"{path.relative_to(PACKAGE)}: {owner.name}.{name}"


def test_public_attributes_have_types() -> None:
    """Type checkers infer differently; `make check` asks pyright, which takes longer, for all."""
    typed: dict[str, set[str]] = {}
    for path in MODULES.values():
        for owner in [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]:
            names = typed.setdefault(owner.name, set())
            for node in ast.walk(owner):
                names |= {name for name, _, has_type in assigned(node) if has_type}
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    names.add(node.target.id)
                elif isinstance(node, ast.FunctionDef):  # of a property
                    names.add(node.name)
    untyped = {each for path in MODULES.values() for each in untyped_attributes(path, typed)}
    assert sorted(untyped) == []
