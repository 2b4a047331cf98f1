"""The key that signs sessions if SECRET_KEY is not set in the environment."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path


def load_or_create_key(folder: Path) -> str:
    """Return the key stored in this folder; the first process creates it.

    A key in the source code would be public, and with a key per process, workers would reject one
    another's sessions. The file is created atomically, so workers that start at the same time agree
    on one key.
    """
    path = folder / "secret_key"
    if not path.exists():
        draft = folder / f"secret_key.{secrets.token_hex(8)}"
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex())
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    return path.read_text()
