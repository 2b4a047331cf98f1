"""nginx before a server of an app, with what people write into its configuration."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

import pytest

from ..clients import LOOPBACK
from ..processes import Child, Server, accepts

__all__ = ["DOCUMENTED", "FIRST", "WITH_HOST", "Nginx", "nginx_or_skip"]

DOCS: Final = Path(__file__).parents[2] / "docs" / "serving.rst"


def documented() -> str:
    """Return the configuration that the documentation shows."""
    found = re.search(r"\.\. code-block:: nginx\n\n((?:   .*\n|\n)+)", DOCS.read_text())
    assert found is not None
    return found[1]


# The address of the app and the port of nginx stand in them as in the documentation.
DOCUMENTED: Final = documented()
# What people begin with: HTTP/1.0 to the app, whose own address is the Host, and a buffer.
FIRST: Final = "server { listen 80; location / { proxy_pass http://127.0.0.1:8000; } }"
WITH_HOST: Final = FIRST.replace("; } }", "; proxy_set_header Host $http_host; } }")


def nginx_or_skip() -> None:
    """Skip the test without nginx; where skips are refused, fail it."""
    if Nginx.program() is None:
        reason = "nginx is not there and could not be installed (Debian: nginx)."
        if os.environ.get("FSM_REFUSE_SKIPS"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


class Nginx(Server):
    """nginx with these directives within `http`, before the app at `port` of the loopback."""

    def __init__(self, directives: str, port: int) -> None:
        super().__init__()
        assert directives.count("127.0.0.1:8000") == directives.count("listen 80;") == 1
        self._directives = directives.replace("127.0.0.1:8000", f"{LOOPBACK}:{port}")

    @staticmethod
    def program() -> str | None:
        """Return where the program is, or None if it is not installed."""
        return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    def launch(self) -> Child:
        program = self.program()
        assert program is not None
        temporary = [
            f"{kind}_temp_path {self.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ]
        config = self.folder / "nginx.conf"
        config.write_text(
            "\n".join(
                (
                    "daemon off;",
                    "user root;" if os.geteuid() == 0 else "",
                    f"pid {self.folder}/pid;",
                    "events { worker_connections 256; }",
                    "http {",
                    "access_log off;",
                    *temporary,
                    self._directives.replace("listen 80;", f"listen {LOOPBACK}:{self.port};"),
                    "}",
                )
            )
        )
        command = [program, "-e", "stderr", "-p", self.folder, "-c", config]
        return Child(command, self.folder / "log", folder=self.folder)

    def answers(self) -> bool:
        return accepts(self.port)
