"""The signed token of a form, by which a POST says which page of which flow it answers.

And a cipher for the ids of flows that a store has to give to several sessions of one owner.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from itsdangerous import Signer
from itsdangerous.signer import SigningAlgorithm
from markupsafe import Markup, escape

from ..errors import InvalidToken

__all__ = ["IdCipher", "Token", "TokenContent", "Tokens", "new_nonce"]

SALT: Final = b"flask_fsm.token"
MAX_TOKEN: Final = 2_048
# Base64 may be read with padding behind it, which would be another text of the same token: so the
# signature is held to its form, too.
_TOKEN: Final = re.compile(
    r"([\w-]{22}(?:~\d{1,9})?)\.(\d{1,15})\.([\w-]{12})\.(.+)\.[A-Za-z0-9_-]{64}", re.DOTALL
)


class TokenContent(NamedTuple):
    """What a token says: the form was rendered for `state` of `flow` at `rev`.

    `nonce` identifies this rendering, so that an identical form sent twice (a double click) is
    told from one that was opened twice.
    """

    flow: str
    rev: int
    nonce: str
    state: str


class Token(Markup):
    """A signed token as the hidden field of a form; `value` is the bare text, for a header."""

    __slots__ = ("value",)
    value: str

    @classmethod
    def of(cls, value: str, field: str) -> Token:
        """Return the hidden field `field` with the signed text `value`."""
        token = cls(f'<input type="hidden" name="{escape(field)}" value="{escape(value)}">')
        token.value = value
        return token


def new_nonce() -> str:
    """Return 72 random bits as text, to identify one rendering of a form."""
    return secrets.token_urlsafe(9)


class KeyedBLAKE2b(SigningAlgorithm):
    """BLAKE2b with a key (RFC 7693 section 2.9), a fifth of the time of an HMAC.

    48 bytes fill 64 characters to the last bit, so that no other text carries the same signature.
    """

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        return hashlib.blake2b(value, key=key, digest_size=48).digest()


class Tokens:
    """Signs tokens with the newest of `secret_keys` and verifies those signed with any of them.

    The keys are derived once, whereas itsdangerous derives them at every use.
    """

    __slots__ = ("_signer",)

    def __init__(self, secret_keys: Sequence[str | bytes]) -> None:
        derived = [
            Signer(key, salt=SALT, key_derivation="hmac", digest_method=hashlib.sha384).derive_key()
            for key in secret_keys
        ]
        self._signer = Signer(derived, salt=SALT, key_derivation="none", algorithm=KeyedBLAKE2b())

    def sign(self, content: TokenContent) -> str:
        """Return the signed token."""
        text = f"{content.flow}.{content.rev}.{content.nonce}.{content.state}"
        return self._signer.sign(text).decode()

    def read(self, text: object) -> TokenContent:
        """Verify a token and return its content; raises InvalidToken."""
        try:
            if not isinstance(text, str) or len(text) > MAX_TOKEN:
                raise ValueError("its size")
            match = _TOKEN.fullmatch(text)
            if match is None:
                raise ValueError("its form")
            signed, signature = text[:-65].encode(), text[-64:].encode()
            if not self._signer.verify_signature(signed, signature):
                raise ValueError("its signature")
        except ValueError as error:
            raise InvalidToken(
                "The token of this form is empty or was not made by this site. "
                "Open the page again and send the form from there."
            ) from error
        flow, rev, nonce, state = match.groups()
        return TokenContent(flow, int(rev), nonce, state)


class IdCipher:
    """Encrypts ids with a key derived from the newest secret key; decrypts with any of the keys.

    An id is shorter than one output of HMAC-SHA-256: it is combined with that of a random salt, and
    authenticated by another (encrypt, then MAC). The standard library has no cipher, and a package
    that brings one is much for 22 characters whose secrecy is a second line of defence.
    """

    __slots__ = ("_keys",)

    def __init__(self, secret_keys: Callable[[], Sequence[str | bytes]]) -> None:
        self._keys = secret_keys

    def _derived(self) -> list[bytes]:
        """Return the derived keys, the newest first."""
        keys = [key.encode() if isinstance(key, str) else key for key in self._keys()]
        return [hmac.digest(key, b"flask_fsm.id", "sha256") for key in reversed(keys)]

    def encrypt(self, id: str) -> str:
        """Return a text from which `decrypt` gets the id back."""
        key = self._derived()[0]
        salt = secrets.token_bytes(16)
        hidden = salt + _combined(key, salt, id[:22].encode())
        return urlsafe_b64encode(hidden + _mark(key, hidden)).decode()

    def decrypt(self, text: str) -> str | None:
        """Return the random part of the id, or None if no key fits."""
        try:
            sealed = urlsafe_b64decode(text)
        except ValueError:
            return None
        hidden, mark = sealed[:-16], sealed[-16:]
        for key in self._derived():
            if len(hidden) == 38 and hmac.compare_digest(mark, _mark(key, hidden)):
                return _combined(key, hidden[:16], hidden[16:]).decode()
        return None


def _combined(key: bytes, salt: bytes, id: bytes) -> bytes:
    stream = hmac.digest(key, b"hide" + salt, "sha256")
    return bytes(a ^ b for a, b in zip(id, stream, strict=False))


def _mark(key: bytes, hidden: bytes) -> bytes:
    return hmac.digest(key, b"mark" + hidden, "sha256")[:16]
