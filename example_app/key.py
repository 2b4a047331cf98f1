"""The key that signs the sessions, where the environment names none."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path


def kept_key(folder: Path) -> str:
    """Return the key that lies in a file of that folder; whoever comes first makes it.

    A key in the source would be known to all, and one for each process would make workers refuse
    one another's sessions. The file appears whole or not at all, so workers that start at the same
    moment agree on the first one's key.
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
