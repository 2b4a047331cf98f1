"""Run the quick tests on every other CPython from 3.12 up that is found.

    python3 tests/pythons.py [PYTHON...] [-- options of pytest]

Without names, these are `python3.12` and up on the PATH, and what pyenv has installed. Each gets a
virtual environment of its own, `.venv-3.12` and so on. Needs nothing but the standard library.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOWEST = (3, 12)
QUICK = ["-n", "2", "-m", "not browser"]
QUICK += [f"--ignore=tests/{name}" for name in ("torture", "live", "bus")]
ABOUT = "import platform, sys; print(platform.python_implementation(), *sys.version_info[:2])"


def version_of(python: str | Path) -> tuple[int, int] | None:
    """Return the version of a CPython; None if it is something else, such as an empty shim."""
    try:
        told = subprocess.run([python, "-c", ABOUT], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, *version = told.stdout.split() or [""]
    return (
        (int(version[0]), int(version[1])) if told.returncode == 0 and name == "CPython" else None
    )


def candidates() -> Iterator[Path]:
    """Return programs that may be Pythons: of the PATH, and of pyenv."""
    for folder in os.get_exec_path():
        if Path(folder).is_dir():
            names = [
                path for path in Path(folder).iterdir() if re.fullmatch(r"python3\.\d+", path.name)
            ]
            yield from sorted(names)
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from sorted(pyenv.glob("versions/*/bin/python3"))


def found(named: list[str]) -> dict[tuple[int, int], Path]:
    """Return the Pythons to test on, by version; a name that is none raises SystemExit."""
    pythons: dict[tuple[int, int], Path] = {}
    for name in named:
        version = version_of(name)
        if version is None:
            raise SystemExit(f"{name} is not a CPython that runs.")
        pythons[version] = Path(name)
    if named:
        return pythons
    for path in candidates():
        version = version_of(path)
        if version is not None and version >= LOWEST and version != sys.version_info[:2]:
            pythons.setdefault(version, path)
    return dict(sorted(pythons.items()))


def environment(version: tuple[int, int], python: Path) -> Path:
    """Return the Python of an environment that has what the tests need; it is made if need be."""
    folder = ROOT / f".venv-{version[0]}.{version[1]}"
    made, inside = folder / "test", folder / "bin" / "python"
    if not made.exists() or made.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        pip = [inside, "-m", "pip", "install", "--quiet"]
        subprocess.run([python, "-m", "venv", folder], check=True)
        subprocess.run([*pip, "--upgrade", "pip"], check=True)
        project = ["--editable", ".[forms,sql,redis]", "--group", "test"]
        subprocess.run([*pip, *project], check=True, cwd=ROOT)
        made.touch()
    return inside


def main(arguments: list[str]) -> int:
    """Test on each, and return the exit code."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    pythons = found(arguments[:at])
    if not pythons:
        print("No other CPython from 3.12 up is here.")
    failed = []
    for version, python in pythons.items():
        name = ".".join(map(str, version))
        print(f"-- Python {name} ({python})", flush=True)
        command = [environment(version, python), "-m", "pytest", *QUICK, *arguments[at + 1 :]]
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        print(f"Tests failed on {', '.join(failed)}.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
