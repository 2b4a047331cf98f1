"""Ids of flows that a store on a server keeps, encrypted by Fernet.

Needs the package `cryptography`, which the extras `sql` and `redis` bring.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["IdCipher"]

INFO: Final = b"flask_fsm.id"
ROOT_LENGTH: Final = 22


class IdCipher:
    """Encrypts with the newest secret key, and decrypts with any.

    Args:
        secret_keys: Returns SECRET_KEY_FALLBACKS and SECRET_KEY, the newest last.
    """

    __slots__ = ("_fernet", "_keys", "_secret_keys")

    def __init__(self, secret_keys: Callable[[], Sequence[str | bytes]]) -> None:
        self._secret_keys = secret_keys
        self._keys: Sequence[str | bytes] = ()
        self._fernet: MultiFernet

    def _current(self) -> MultiFernet:
        keys = self._secret_keys()
        if keys != self._keys:
            self._fernet = MultiFernet([_fernet(key) for key in reversed(keys)])
            self._keys = keys
        return self._fernet

    def encrypt(self, id: str) -> str:
        """Return a text from which `decrypt` gets the id back, without the number of its run."""
        return self._current().encrypt(id[:ROOT_LENGTH].encode()).decode()

    def decrypt(self, text: object) -> str | None:
        """Return the id without the number of its run; None if no current key decrypts it."""
        if not isinstance(text, str):  # a database without types may hold anything
            return None
        try:
            return self._current().decrypt(text.encode("utf-8", "surrogatepass")).decode()
        except InvalidToken:
            return None


def _fernet(key: str | bytes) -> Fernet:
    """Return the cipher for a secret key, from which HKDF (RFC 5869) derives the cipher's key."""
    secret = key.encode() if isinstance(key, str) else key
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=INFO).derive(secret)
    return Fernet(urlsafe_b64encode(derived))
