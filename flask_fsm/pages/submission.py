"""A submission: what a POST says about itself, before any view reads it."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any, Final

from flask import Request

from ..config import Config
from ..core.snapshot import Receipt
from ..errors import Code, InvalidToken
from ..security.tokens import TokenContent, Tokens
from ..stores.base import root_id

__all__ = ["TOKEN_HEADER", "Submission"]

TOKEN_HEADER: Final = "X-FSM-Token"  # noqa: S105
CHUNK: Final = 1 << 16


class Submission:
    """The tokens and the `to` of a request.

    A page that several machines guard carries a token of each.
    """

    __slots__ = ("_request", "_token_field", "content", "contents", "to")

    def __init__(self, config: Config, request: Request, tokens: Callable[[], Tokens]) -> None:
        self._request = request
        self._token_field = config.token_field
        texts, to = _read(request, config.token_field, config.to_field)
        if not texts:
            header = request.headers.get(TOKEN_HEADER)
            texts = [] if header is None else header.split()
            if header is not None and not texts:
                texts = [header]
        if not texts and config.require_token:
            raise InvalidToken(
                f"This form came without its token: put {{{{ fsm.token() }}}} into the form, or "
                f"send the header {TOKEN_HEADER}.",
                code=Code.NO_TOKEN,
            )
        self.contents = [tokens().read(text) for text in texts]
        self.content: TokenContent | None = self.contents[0] if self.contents else None
        """The token that counts."""
        self.to: Any = to
        """Where the client wants to go, as sent; None if it doesn't say."""

    def select_token(self, id: str, was: str | None) -> None:
        """Let the token count that was made for the flow `id`, which `was` another, if one was."""
        for claim in self.contents if len(self.contents) > 1 else ():
            if root_id(claim.flow) in (root_id(id), root_id(was or id)):
                self.content = claim
                return

    @property
    def receipt(self) -> Receipt | None:
        """What this submission is known by if it comes again; None without a token."""
        if self.content is None:
            return None
        return Receipt(self.content.nonce, _digest(self._request, self._token_field))


def _read(request: Request, token_field: str, to_field: str) -> tuple[list[Any], Any]:
    """Return the tokens and the `to` of a form, of a JSON object, or of the query."""
    form = request.form
    if form:
        # A MultiDict's get() raises and catches when a name is missing, which takes longer.
        texts: list[Any] = form.getlist(token_field)
        to: Any = form[to_field] if to_field in form else None  # noqa: SIM401
    else:
        body = json_object(request)
        texts = [body[token_field]] if token_field in body else []
        to = body.get(to_field)
    if to is None and request.query_string:
        to = request.args.get(to_field)
    return texts, None if to == "" else to  # "" is a text input that nobody touched


def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request carries; an empty one if it carries none."""
    try:
        body = request.get_json(silent=True)
    except RecursionError:  # brackets without end
        body = None
    return body if isinstance(body, dict) else {}


def _digest(request: Request, token_field: str) -> str:
    """Digest path, query, fields but the token, and the contents of files."""
    parts = [request.path, request.query_string.decode("latin-1")]
    form, files = request.form, request.files
    if form or files:
        for name, value in form.items(multi=True):
            if name != token_field:
                parts += (name or "", value)  # a part of a multipart body may lack its name
        for name, file in files.items(multi=True):
            content = hashlib.blake2b(digest_size=16)
            while chunk := file.stream.read(CHUNK):
                content.update(chunk)
            file.stream.seek(0)
            parts += (name or "", file.filename or "", content.hexdigest())
    else:
        parts.append(request.get_data(cache=True).decode("latin-1"))
    # With its length before it, no part can pass for the end of another.
    text = "".join([f"{len(part)}:{part}" for part in parts]).encode("utf-8", "surrogatepass")
    return urlsafe_b64encode(hashlib.blake2b(text, digest_size=12).digest()).decode()
