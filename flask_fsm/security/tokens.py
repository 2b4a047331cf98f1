"""The token of a form: signed, so that a POST can say which page of which flow it answers."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

from itsdangerous import Signer
from markupsafe import Markup, escape

from ..errors import InvalidToken
from ..texts import _

__all__ = ["Token", "TokenContent", "Tokens", "new_nonce"]

SALT: Final = b"flask_fsm.token"
MAX_TOKEN: Final = 2_048
# 32 bytes of HMAC-SHA-256 take 43 characters of base64, and of the last one only four bits count.
# The other two are held to zero, and padding is refused: no other text is read as the same token.
_TOKEN: Final = re.compile(
    r"([\w-]{22}(?:~\d{1,9})?)\.(\d{1,15})\.([\w-]{12})\.(.+)"
    r"\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]",
    re.DOTALL,
)


class TokenContent(NamedTuple):
    """The content of a token.

    Args:
        flow: Id of the flow.
        rev: Its rev when the form was rendered.
        nonce: Names this rendering of the form, to tell a form sent twice (a double click) from one
            opened twice.
        state: The page that was rendered.
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
    """Return 72 random bits, which name one rendering of a form."""
    return secrets.token_urlsafe(9)


class Tokens:
    """Signs tokens with the newest secret key, and verifies them with any.

    Args:
        secret_keys: SECRET_KEY_FALLBACKS and SECRET_KEY, the newest last.
    """

    __slots__ = ("_signer",)

    def __init__(self, secret_keys: Sequence[str | bytes]) -> None:
        keys = [key.encode() if isinstance(key, str) else key for key in secret_keys]
        self._signer = Signer(keys, salt=SALT, key_derivation="hmac", digest_method=hashlib.sha256)

    def sign(self, content: TokenContent) -> str:
        """Return the signed token."""
        text = f"{content.flow}.{content.rev}.{content.nonce}.{content.state}"
        return self._signer.sign(text).decode()

    def read(self, text: object) -> TokenContent:
        """Return the content of a token; raise InvalidToken if it was not signed by this app."""
        try:
            if not isinstance(text, str) or len(text) > MAX_TOKEN:
                raise ValueError("its size")
            match = _TOKEN.fullmatch(text)
            if match is None:
                raise ValueError("its form")
            signed, signature = text[:-44].encode(), text[-43:].encode()
            if not self._signer.verify_signature(signed, signature):
                raise ValueError("its signature")
        except ValueError as error:
            raise InvalidToken(
                _(
                    "The token of this form is empty or was not made by this site. "
                    "Open the page again and send the form from there."
                )
            ) from error
        flow, rev, nonce, state = match.groups()
        return TokenContent(flow, int(rev), nonce, state)
