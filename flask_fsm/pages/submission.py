"""A submission: the form or JSON body of a POST, and whether it has been handled before."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import partial
from io import BytesIO
from mmap import ACCESS_READ, mmap
from tempfile import TemporaryFile
from typing import IO, Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes
from weakref import finalize

from flask import Request, current_app
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from ..config import Config
from ..core.snapshot import Receipt
from ..errors import Code, FSMError, InvalidToken
from ..responses import is_json
from ..runtime.unit_of_work import UnitOfWork
from ..security.tokens import TokenContent, Tokens
from ..stores.base import StoredReply, SubmissionQuery, root_id
from ..texts import _
from .urls import FlowURLs

__all__ = [
    "SAFE_METHODS",
    "TOKEN_HEADER",
    "UNREAD",
    "EarlierReply",
    "Submission",
    "csrf_field",
    "earlier_reply",
    "is_csrf_field",
    "json_object",
    "read_body",
    "sent_json",
    "sent_tokens",
    "token_text",
]

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
TOKEN_HEADER: Final = "X-FSM-Token"  # noqa: S105
UNREAD: Final = (Code.BAD_BODY, Code.BODY_TOO_LARGE)
"""The codes of bodies of which nothing can be shown."""
SIGNATURE: Final = 43
"""Number of characters of the signature at the end of a token."""
CHUNK: Final = 1 << 16
"""Number of bytes that are read at once; a body of more is kept in a file."""
MULTIPART: Final = "multipart/form-data"
FORM_TYPES: Final = (MULTIPART, "application/x-www-form-urlencoded")
# Of Flask-WTF, with the prefix of a form, and of Flask-SeaSurf, WTForms, Django, Rails and ASP.
CSRF_NAME: Final = re.compile(
    "csrf|xsrf|authenticity_token|RequestVerificationToken", re.IGNORECASE
)
# A byte that is not ASCII, as urlencoded forms write it.
ESCAPED_BYTE: Final = re.compile(rb"%[89A-Fa-f]")
# The end of a line as JSON writes it; a backslash before it is of the text only if it is a pair.
LINE_END: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\r\\n")
REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class Submission:
    """The tokens and the `to` of a request.

    A page that several machines guard has a token of each.
    """

    __slots__ = (
        "_request",
        "_text",
        "_texts",
        "_token_field",
        "content",
        "contents",
        "receipt",
        "sends_to",
        "to",
    )

    def __init__(self, config: Config, request: Request, tokens: Callable[[], Tokens]) -> None:
        self._request = request
        self._token_field = config.token_field
        texts, to = _read(request, config.token_field, config.to_field)
        self.sends_to: bool = to is not None
        """Whether a field `to` was sent, which may be empty."""
        texts = texts or _in_header(request)
        if not texts and config.require_token:
            raise InvalidToken(
                f"This form came without its token: put {{{{ fsm.token() }}}} into the form, or "
                f"send the header {TOKEN_HEADER}.",
                code=Code.NO_TOKEN,
            )
        self._texts = texts
        self._text = ""
        self.contents: list[TokenContent] = [tokens().read(text) for text in texts]
        self.content: TokenContent | None = None
        """The content of the token that counts for this flow; None if no token was sent."""
        self.receipt: Receipt | None = None
        """How this submission is recognised if it is sent again; None until it is made."""
        self.to: Any = None if to == "" else to  # "" is a text input that was left empty
        """The state that the client names as its target, as sent; None if it names none."""

    def select_token(self, id: str, previous_id: str | None) -> None:
        """Select the token that was made for the flow `id`, whose id was `previous_id` before."""
        if not self.contents:
            return
        self.content, self._text = self.contents[0], self._texts[0]
        if len(self.contents) > 1:
            for content, text in zip(self.contents, self._texts, strict=True):
                if root_id(content.flow) in (root_id(id), root_id(previous_id or id)):
                    self.content, self._text = content, text
                    break

    def make_receipt(self) -> Receipt | None:
        """Return the receipt, made of the whole body the first time; None without a token.

        Not each refused form needs one, but it must be made before the view uses up the body.
        """
        if self.receipt is None and self.content is not None:
            digest = _digest(self._request, self._token_field, self._text)
            self.receipt = Receipt(self.content.nonce, digest)
        return self.receipt


class EarlierReply(NamedTuple):
    """The outcome of an earlier submission with the same token."""

    reply: StoredReply
    """The reply that the first submission got; its location is None if it ended at no page."""
    reused: bool
    """Whether this submission has the token of the first one but another body."""


def earlier_reply(submission: Submission | None, work: UnitOfWork) -> EarlierReply | None:
    """Return the reply that this submission already got, or None if it is new.

    This is what makes a form idempotent: a double click, a reload of a POST, a retry after a lost
    answer and the replay after a lost race are all recognised here, by the token and a digest of
    the body, and get the stored reply instead of a second effect.
    """
    if submission is None or submission.content is None or not work.is_known:
        return None
    content, stored = submission.content, work.persisted
    missing = work.missing_reason
    if missing is None and content.flow == stored.id and content.rev == stored.rev:
        return None  # a token as new as the flow itself has had no effect yet
    found: StoredReply | None = None
    previous_id = work.previous_id
    id = (missing.flow if missing is not None else None) or stored.id
    if root_id(content.flow) in (root_id(id), root_id(previous_id or id)):
        rev, version = content.rev, work.version
        if missing is not None and missing.code == Code.RESET and version is not None:
            rev = max(rev, version.rev - 1)  # of a run that was reset, only the reset counts
        current = content.flow in (id, previous_id)
        found = work.state.store.stored_reply(
            work.locator, SubmissionQuery(id, content.flow, rev, content.nonce, version, current)
        )
    if found is None and stored.receipt is not None and stored.receipt.nonce == content.nonce:
        # Another process may have made the last commit: it led to the page that is current.
        found = StoredReply(
            stored.receipt.digest, FlowURLs(work).url_of(stored), stored.rev, stored.state
        )
    if found is None:
        return None
    if missing is not None and missing.code == Code.RESET:
        found = found._replace(rev=None, state=None)
    receipt = submission.make_receipt()
    return EarlierReply(found, receipt is None or found.digest != receipt.digest)


def csrf_field() -> str:
    """Return the name of Flask-WTF's hidden field."""
    name: str = current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token")
    return name


def token_text(request: Request, token_field: str) -> str:
    """Return the token of a form or header as sent, which tells clicks on the same form; or ''."""
    form = request.form
    return form[token_field] if token_field in form else request.headers.get(TOKEN_HEADER, "")


def is_csrf_field(name: str) -> bool:
    """Return whether a field of that name holds a CSRF token, of Flask-WTF or another library."""
    return name == csrf_field() or CSRF_NAME.search(name or "") is not None


def sent_tokens(config: Config, request: Request) -> list[Any]:
    """Return the tokens of a request, one of each machine that guards its page."""
    return _read(request, config.token_field, config.to_field)[0] or _in_header(request)


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
    return texts, to


def _in_header(request: Request) -> list[Any]:
    header = request.headers.get(TOKEN_HEADER)
    return [] if header is None else header.split() or [header]


def sent_json(request: Request) -> Any:
    """Return the JSON value in the body of a request; None if there is none that can be read."""
    try:
        return request.get_json(force=True, silent=True) if is_json(request) else None
    except RecursionError:  # nested too deeply
        return None


def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in the body of a request; an empty one if there is none."""
    body = sent_json(request)
    return body if isinstance(body, dict) else {}


# -- the body -------------------------------------------------------------------------------


def read_body(request: Request) -> None:
    """Read and parse the body of a request, and leave `request.stream` whole for the view.

    Raises FSMError: `bad_body` for a form or JSON that can't be parsed, of which Werkzeug makes an
    empty form; `body_too_large` for one that is over a limit of the app.
    """
    try:
        _parse_body(request)
    except RequestEntityTooLarge as error:
        raise FSMError(
            _("What you sent is larger than this site can receive. Nothing was changed."),
            code=Code.BODY_TOO_LARGE,
            status=413,
        ) from error
    except ClientDisconnected as error:
        raise _invalid_body(request) from error


def _parse_body(request: Request) -> None:
    is_form = request.mimetype in FORM_TYPES
    if is_form and "form" in vars(request):  # a function of the app has parsed it before the guard
        if not request.form and not request.files and _is_lost(request):
            raise _invalid_body(request)
        return
    # Forms without files, and JSON, are in memory as a whole when they are parsed.
    in_memory = request.mimetype != MULTIPART and (is_form or is_json(request))
    body = BytesIO(request.get_data()) if in_memory else _buffered(request)
    request.stream = request.environ["wsgi.input"] = body
    if is_form:
        request.form_data_parser_class = partial(  # type: ignore[assignment]
            request.form_data_parser_class, silent=False
        )
        try:
            _check_encoding(request, body)
        except ValueError as error:
            raise _invalid_body(request) from error
    elif is_json(request) and sent_json(request) is None and not _is_null(request.get_data()):
        raise _invalid_body(request)
    request.stream = body
    body.seek(0)


def _buffered(request: Request) -> IO[bytes]:
    """Return the body in a stream that can be read again, in memory only if it is small."""
    stream = request.stream
    body: IO[bytes] = BytesIO()
    while chunk := stream.read(CHUNK):
        if isinstance(body, BytesIO) and body.tell() + len(chunk) > CHUNK:
            start = body.getvalue()
            body = TemporaryFile()  # noqa: SIM115
            finalize(request, body.close)
            body.write(start)
        body.write(chunk)
    if not body.tell():
        # A function of the app may have read the stream before; then Flask has the bytes, if any.
        body.write(request.get_data(cache=False))
    body.seek(0)
    return body


def _is_null(body: bytes) -> bool:
    """Return whether a JSON body is empty or null, and not one that can't be parsed."""
    return body.strip() in (b"", b"null")


def _is_lost(request: Request) -> bool:
    """Return whether the body of a request, whose form is empty, is more than an empty form."""
    boundary = request.mimetype_params.get("boundary")
    return (request.content_length or 0) > (len(f"--{boundary}--\r\n") if boundary else 0)


def _check_encoding(request: Request, body: IO[bytes]) -> None:
    """Raise ValueError for texts that are not UTF-8, which Werkzeug alters instead."""
    form = request.form
    body.seek(0)
    if request.mimetype != MULTIPART:
        data = request.get_data()
        if ESCAPED_BYTE.search(data):
            unquote_to_bytes(data).decode()
    elif altered := [
        text for pair in form.items(multi=True) for text in pair if REPLACEMENT in (text or "")
    ]:
        sent = (
            body.getvalue()
            if isinstance(body, BytesIO)
            else mmap(body.fileno(), 0, access=ACCESS_READ)
        )
        if any(sent.find(text.encode()) < 0 for text in altered):
            raise ValueError("A field is not UTF-8.")


def _invalid_body(request: Request) -> FSMError:
    return FSMError(
        _(
            "The body of this request is incomplete or not UTF-8: it can't be read as %(type)s. "
            "Nothing was changed; send it again from its page.",
            type=request.mimetype,
        ),
        code=Code.BAD_BODY,
        status=400,
    )


def _digest(request: Request, token_field: str, token: str) -> str:
    """Digest path, query, fields but the token, and the contents of files.

    The token's signature is the key: without it, nobody who reads the store can find out by trying
    which password was in the form.
    """
    form, files = request.form, request.files
    # lists() copies, which for a form of many fields takes longer than to digest it. The order of
    # both is the same for a form, but not for `request.values`.
    fields = dict(zip(form, form.listvalues(), strict=True))
    fields.pop(token_field, None)
    contents = [
        (name, file.filename, _digest_of(file.stream)) for name, file in files.items(multi=True)
    ]
    rest = None if form or files else _digest_of(request.stream)
    text = json.dumps(fields)
    if r"\r\n" in text:  # browsers end lines so, scripts may not
        text = LINE_END.sub(r"\1\\n", text)
    parts = json.dumps([request.path, request.query_string.decode("latin-1"), contents, rest])
    key = token[-SIGNATURE:].encode()
    keyed = hashlib.blake2b(f"{parts}{text}".encode(), digest_size=12, key=key)
    return urlsafe_b64encode(keyed.digest()).decode()


def _digest_of(stream: IO[bytes]) -> str:
    content = hashlib.sha256()
    if isinstance(stream, BytesIO):
        content.update(stream.getvalue())
    else:
        while chunk := stream.read(CHUNK):
            content.update(chunk)
        stream.seek(0)
    return content.hexdigest()
