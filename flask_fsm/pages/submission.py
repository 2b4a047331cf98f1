"""A submission: what a POST says about itself, before any view reads it."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final

from flask import Request

from ..config import Config
from ..core.snapshot import Receipt
from ..errors import InvalidToken
from ..tokens import Claim, Tokens

__all__ = ["TOKEN_HEADER", "Submission"]

TOKEN_HEADER: Final = "X-FSM-Token"  # noqa: S105
CHUNK: Final = 1 << 16


class Submission:
    """The token and the `to` of a request, and a receipt by which it is known again."""

    __slots__ = ("claim", "receipt", "to")

    def __init__(self, config: Config, request: Request, tokens: Callable[[], Tokens]) -> None:
        fields = _fields(request)
        # A MultiDict's get() raises and catches when a name is missing, which takes longer.
        text = (
            fields[config.token_field]
            if config.token_field in fields
            else request.headers.get(TOKEN_HEADER)
        )
        self.claim: Claim | None = None
        self.receipt: Receipt | None = None
        if text is not None:
            if not isinstance(text, str):
                raise InvalidToken("The token of this form is no text.")
            self.claim = tokens().read(text)
            self.receipt = Receipt(self.claim.nonce, _digest(request, config.token_field))
        elif config.require_token:
            raise InvalidToken(
                f"This form came without its token: put {{{{ fsm.token() }}}} into the form, or "
                f"send the header {TOKEN_HEADER}.",
                code="no_token",
            )
        self.to = fields[config.to_field] if config.to_field in fields else None
        """Where the client wants to go, as sent; None if it doesn't say."""
        if self.to is None and request.query_string:
            self.to = request.args.get(config.to_field)
        if self.to == "":  # a text input that nobody touched
            self.to = None


def _fields(request: Request) -> Mapping[str, Any]:
    """Return the fields of the form, or of a JSON object."""
    form = request.form
    if not form and request.is_json:
        body = request.get_json(silent=True)
        return body if isinstance(body, dict) else {}
    return form


def _digest(request: Request, token_field: str) -> str:
    """Digest path, query, fields but the token, and the contents of files."""
    digest = hashlib.blake2b(digest_size=16)

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(b"%d:" % len(part))
            digest.update(part)

    add(request.path.encode("utf-8", "surrogatepass"), request.query_string)
    form, files = request.form, request.files
    if form or files:
        for name, value in form.items(multi=True):
            if name != token_field:
                add(name.encode("utf-8", "surrogatepass"), value.encode("utf-8", "surrogatepass"))
        for name, file in files.items(multi=True):
            content = hashlib.blake2b(digest_size=16)
            while chunk := file.stream.read(CHUNK):
                content.update(chunk)
            file.stream.seek(0)
            add(name.encode("utf-8", "surrogatepass"), (file.filename or "").encode())
            add(content.digest())
    else:
        add(request.get_data(cache=True))
    return urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
