"""A link that continues a flow on another device: opening it asks, and a POST moves the flow."""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from typing import Any, Final

from flask import (
    Response,
    after_this_request,
    current_app,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from itsdangerous import BadData, URLSafeSerializer

from ..errors import Code, FlowGone, NotFound
from ..responses import Refusal, RefusalContext, no_store
from ..runtime.app_state import app_state, secret_keys
from ..runtime.link import follow_link, link_target
from ..runtime.unit_of_work import UnitOfWork
from ..security.origin import is_own_form
from ..texts import _
from .submission import csrf_field
from .urls import FlowURLs

__all__ = ["resume", "resume_link"]

SALT: Final = "flask_fsm.resume"
NONCE_KEY: Final = "_fsmlink"


def _links(machine: str) -> URLSafeSerializer:
    keys = [key.encode() if isinstance(key, str) else key for key in secret_keys(current_app)]
    return URLSafeSerializer(keys, salt=f"{SALT}.{machine}")


def resume_link(work: UnitOfWork, expires: float) -> str:
    """Return the address that continues the flow of `work` elsewhere, for `expires` seconds."""
    pointer = link_target(work)
    until = int(work.state.clock() + expires)
    link = _links(work.bound.name).dumps([*pointer, until])
    return url_for("fsm.resume", machine=work.bound.name, link=link, _external=True)


def resume(machine: str, link: str) -> ResponseReturnValue:
    """Ask whether the flow is to continue here; on a POST from this site, continue it."""
    after_this_request(no_store)
    after_this_request(_unframed)
    state = app_state()
    bound = state.bound.get(machine)
    if bound is None:
        raise NotFound(_("There is no such page."))
    try:
        owner, key, id_digest, until = _links(machine).loads(link)
    except (BadData, ValueError, TypeError):
        raise NotFound(_("There is no such page.")) from None
    work = UnitOfWork(state, bound, {})
    urls = FlowURLs(work)
    try:
        if until < state.clock():
            raise FlowGone(_("This link has expired."), code=Code.LINK_EXPIRED)
        confirmed = request.method == "POST" and is_own_form(request)
        follow_link(work, owner, key, id_digest, _new_id(link), confirmed=confirmed)
    except FlowGone as error:
        raise Refusal.of(error, RefusalContext(machine, start_url=urls.start_url())) from error
    if confirmed:
        return redirect(urls.current_url() or "/", 303)
    return render_template("fsm/resume.html", machine=machine, fields=_csrf_fields())


def _unframed(response: Response) -> Response:
    """Forbid frames of other sites, which could trick a visitor into clicking (clickjacking)."""
    response.headers["X-Frame-Options"] = "DENY"
    return response


def _new_id(link: str) -> str:
    """Return the id that the flow gets, if this session continues it; nobody else can know it."""
    nonce = session.setdefault(NONCE_KEY, secrets.token_urlsafe(16))
    key = secret_keys(current_app)[-1]
    text = f"{SALT} {nonce} {link}".encode()
    made = hmac.digest(key.encode() if isinstance(key, str) else key, text, "sha256")[:16]
    return urlsafe_b64encode(made).decode().rstrip("=")


def _csrf_fields() -> list[tuple[str, Any]]:
    if "csrf" not in current_app.extensions:
        return []
    from flask_wtf.csrf import generate_csrf

    return [(csrf_field(), generate_csrf())]
