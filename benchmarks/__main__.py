"""Run all benchmarks and print their tables: `python -m benchmarks [--quick] [--write README.md]`.

Each module runs in a process of its own; within it, what is compared runs side by side.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

MARKS = re.compile(r"(?<=<!-- benchmarks -->\n).*(?=<!-- /benchmarks -->)", re.DOTALL)


def tables(module: str, quick: bool) -> str:
    """Return what a module prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *(["--quick"] if quick else [])]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rougher figures")
    parser.add_argument("--write", type=Path, help="put the tables between the marks of this file")
    options = parser.parse_args()
    text = "\n\n".join(
        [
            f"Measured on {date.today():%Y-%m-%d} with CPython {platform.python_version()} on "
            f"{os.cpu_count()} shared cores: medians of runs side by side, so read the ratios, "
            f"not the times. `make bench` repeats it.",
            tables("core", options.quick),
            "### A guarded POST",
            tables("post", options.quick),
            "How much of the package that crosses, and a socket event from its job to its replies, "
            "counted by `sys.setprofile`:",
            tables("path_length", options.quick),
            "### One visitor's load",
            "What a stranger notices of it, on gunicorn's gthread with eight threads. The 99th "
            "percentiles are to stay under 50 and 100 ms:",
            tables("one_visitor", options.quick),
            "### A refused form",
            "Beside a plain view that only reads the same body. Where no view of ours runs, the "
            "ratios are to stay under 2; a validator refuses after the view has copied it all:",
            tables("refusals", options.quick),
            "### Stores on a server",
            tables("stores", options.quick),
            "### The cookie",
            tables("cookie", options.quick),
        ]
    )
    print(text)
    if options.write:
        page = options.write.read_text()
        options.write.write_text(MARKS.sub(lambda _: text + "\n", page))


if __name__ == "__main__":
    main()
