"""A link that continues a flow on another device: opening it asks, and a POST moves the flow."""

from __future__ import annotations

import hmac
import secrets
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
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

from ..binding.bound_machine import Bound, newest
from ..core.snapshot import Snapshot
from ..errors import Code, FlowGone, NotFound
from ..responses import Refusal, RefusalContext, no_store
from ..runtime.app_state import app_state, secret_keys
from ..runtime.link import LinkedFlow, find_linked, follow_link, has_followed, link_target
from ..runtime.unit_of_work import UnitOfWork
from ..security.origin import is_own_form
from ..texts import _, show_time
from .submission import csrf_field
from .urls import FlowURLs

__all__ = ["resume", "resume_link"]

SALT: Final = "flask_fsm.resume"
NONCE_KEY: Final = "_fsmlink"
CHOICE_FIELD: Final = "keep"
LINKED: Final = "linked"
OWN: Final = "own"


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
    """Ask whether the flow is to continue here; on a POST from this site, continue it.

    If the visitor has begun another flow, the page asks which of the two is to be kept.
    """
    after_this_request(no_store)
    after_this_request(_protected)
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
    confirmed = request.method == "POST" and is_own_form(request)
    try:
        if until < state.clock():
            raise FlowGone(_("This link has expired."), code=Code.LINK_EXPIRED)
        new_id = _new_id(link)  # also before it is needed: the session then has its nonce
        if confirmed and has_followed(work, new_id):
            return _to_current_page(urls)
        linked = find_linked(work, owner, key, id_digest)
        kept = _kept(bound, linked) if confirmed else None
        if kept == LINKED:
            follow_link(work, linked, new_id)
    except FlowGone as error:
        raise Refusal.of(error, RefusalContext(machine, start_url=urls.start_url())) from error
    if kept is not None:
        return _to_current_page(urls)
    page = render_template(
        "fsm/resume.html",
        machine=machine,
        fields=_csrf_fields(),
        linked=_described(linked.snapshot),
        own=None if linked.own is None else _described(linked.own),
        replaceable=_kept(bound, linked, LINKED) == LINKED,
    )
    return page, 409 if confirmed else 200


def _kept(bound: Bound, linked: LinkedFlow, choice: str | None = None) -> str | None:
    """Return which flow is kept; None if the visitor has to choose.

    If the app has a function for `on_login_conflict`, that can refuse the flow of a link.
    """
    if linked.own is None:
        return LINKED
    choice = choice or request.form.get(CHOICE_FIELD)
    if bound.choose is not newest:
        if bound.choose(linked.snapshot, linked.own) is linked.own:
            return OWN
        return OWN if choice == OWN else LINKED
    return choice if choice in (OWN, LINKED) else None


def _to_current_page(urls: FlowURLs) -> ResponseReturnValue:
    return redirect(urls.current_url() or "/", 303)


def _described(snapshot: Snapshot) -> dict[str, str]:
    """Return what the page says of a flow: no answers, since anyone may have sent the link."""
    changed = datetime.fromtimestamp(snapshot.updated, UTC)
    page = snapshot.state.rpartition(".")[2].replace("_", " ").capitalize()
    return {"page": page, "changed": show_time(changed)}


def _protected(response: Response) -> Response:
    """Forbid frames of other sites (clickjacking), and telling other sites the link."""
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Referrer-Policy"] = "no-referrer"
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
