"""Visitors of an app's pages: browsers without JavaScript."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from flask import Flask, url_for
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from ..core.snapshot import Snapshot
from ..pages.api import MachineViews
from ..pages.urls import encoded_path
from .clock import state_of
from .html_forms import Control, FormFields, forms_in

__all__ = ["Form", "Visitor"]

EXCERPT: Final = 400
REDIRECTS: Final = 20


class Visitor:
    """A browser without JavaScript: keeps cookies, opens pages, and submits their forms.

    Two visitors are two people, or two devices of one. Two tabs of one visitor are two forms:
    `first = visitor.form()` keeps the form as it was shown, whatever is opened after it.

    Args:
        app: The app, which need not be served.
        headers: Sent with every request, such as `{"Accept": "application/json"}`.
    """

    def __init__(self, app: Flask, *, headers: Mapping[str, str] | None = None) -> None:
        self.app = app
        self.client: FlaskClient = app.test_client()
        """Flask's test client, which holds the cookies and sends any other request."""
        self.headers: dict[str, str] = dict(headers or {})
        self._response: TestResponse | None = None

    # -- what is shown ------------------------------------------------------------------

    @property
    def response(self) -> TestResponse:
        """The last response."""
        if self._response is None:
            raise LookupError("This visitor has opened no page yet: call open() first.")
        return self._response

    @property
    def status(self) -> int:
        """The status of the last response, such as 200."""
        return self.response.status_code

    @property
    def text(self) -> str:
        """The text of the last response."""
        return self.response.text

    @property
    def json(self) -> Any:
        """The last response's JSON; None if it is something else."""
        return self.response.get_json(silent=True) if self.response.is_json else None

    @property
    def path(self) -> str:
        """The path and query of the last request."""
        parts = urlsplit(self.response.request.url)
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    @property
    def location(self) -> str | None:
        """Where the last response leads: a redirect, htmx's HX-Redirect, or JSON's `location`."""
        headers = self.response.headers
        found = headers.get("Location") or headers.get("HX-Redirect")
        if found is None and self.status == 200 and isinstance(self.json, dict):
            found = self.json.get("location")
        return found

    # -- the flow -----------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The name of the state that this visitor's flow is in, of the app's first machine."""
        return self.flow().state

    def flow(self, machine: MachineViews | None = None) -> Snapshot:
        """Return this visitor's flow as it is stored: `state`, `rev`, `data`, `path`, `finished`.

        Nothing is sent and nothing changes. Where the URL tells flows apart, it is the flow of the
        page that was opened last.

        Args:
            machine: What `fsm.add(...)` returned; by default the app's first machine.
        """
        views: Any = state_of(self.app).extension if machine is None else machine
        path = "/" if self._response is None else self._response.request.url
        cookie = self.session_cookie
        name = self.app.config["SESSION_COOKIE_NAME"]
        headers = {} if cookie is None else {"Cookie": f"{name}={cookie}"}
        with self.app.test_request_context(path, headers=headers):
            self.app.preprocess_request()
            found: Snapshot = views.flow.snapshot
            return found

    @property
    def session_cookie(self) -> str | None:
        """The text of the session cookie, or None; setting None deletes it."""
        found = self.client.get_cookie(self.app.config["SESSION_COOKIE_NAME"], **self._scope())
        return None if found is None else found.value

    @session_cookie.setter
    def session_cookie(self, value: str | None) -> None:
        name = self.app.config["SESSION_COOKIE_NAME"]
        if value is None:
            self.client.delete_cookie(name, **self._scope())
        else:
            self.client.set_cookie(name, value, **self._scope())

    def _scope(self) -> dict[str, Any]:
        sessions = self.app.session_interface
        host = (self.app.config["SERVER_NAME"] or "localhost").partition(":")[0]
        return {
            "domain": sessions.get_cookie_domain(self.app) or host,
            "path": sessions.get_cookie_path(self.app),
        }

    # -- what a visitor does ------------------------------------------------------------

    def open(
        self, page: str, /, *, headers: Mapping[str, str] | None = None, **url_args: Any
    ) -> TestResponse:
        """Get a page, without following a redirect.

        Args:
            page: A path such as `/address`, or an endpoint such as `address` or `shop.address`.
            headers: Sent with this request.
            url_args: The endpoint's URL arguments; with a path they are its query.

        Raises:
            werkzeug.routing.BuildError: There is no such endpoint.
        """
        if page.startswith(("/", "http://", "https://")):
            return self.request("GET", page, headers=headers, query_string=url_args or None)
        with self.app.test_request_context():
            path = url_for(page, **url_args)
        return self.request("GET", path, headers=headers)

    def follow(self) -> TestResponse:
        """Go where the last response leads, through any further redirects.

        Raises:
            LookupError: The last response leads nowhere, or the redirects do not end.
        """
        for _ in range(REDIRECTS):
            location = self.location
            if location is None:
                raise LookupError(f"There is no redirect to follow: {self._described()}")
            self.request("GET", urljoin(self.response.request.url, location))
            if self.location is None:
                return self.response
        raise LookupError(f"More than {REDIRECTS} redirects, the last one to {self.location}.")

    def forms(self) -> list[Form]:
        """Return the forms of the page that is shown."""
        page = encoded_path(self.response.request)
        return [Form(self, page, each) for each in forms_in(self.text)]

    def form(self, which: int | str | None = None, *, button: str | None = None) -> Form:
        """Return a form of the page that is shown.

        Args:
            which: Its place on the page, from 0, or its `id` or `name`. By default the first form
                with the flow's token, or else the first that is posted, or else the first.
            button: Of the forms left, the first with this button: its `name`, `value`, `id` or
                text.

        Raises:
            LookupError: There is no such form.
        """
        forms = self.forms()
        if isinstance(which, int):
            found = forms[which : which + 1] if which >= 0 else forms[which:][:1]
        elif which is not None:
            found = [form for form in forms if which in (form.id, form.name)]
        else:
            name = self.token_field
            found = sorted(forms, key=lambda form: (name not in form.values, form.method != "POST"))
        if button is not None:
            found = [form for form in found if form.button(button) is not None]
        if not found:
            wanted = "" if which is None else f" {which!r}"
            pressed = "" if button is None else f" with a button {button!r}"
            raise LookupError(f"There is no form{wanted}{pressed} here: {self._described()}")
        return found[0]

    def submit(
        self,
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        to: str | None = None,
        form: int | str | None = None,
        button: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> TestResponse:
        """Fill in a form of the page that is shown, and send it with its hidden fields.

        Args:
            fields: What is typed or chosen, by the fields' names; see `Form.submit`.
            to: The state to go to, as a button of that name says.
            form: Which form; see `form()`.
            button: Which button is pressed, by `name`, `value`, `id` or text.
            headers: Sent with this request.
            more: More fields, as keyword arguments.

        Raises:
            LookupError: There is no such form or button.
        """
        chosen = self.form(form, button=button)
        return chosen.submit({**(fields or {}), **more}, to=to, button=button, headers=headers)

    def request(
        self,
        method: str,
        url: str,
        /,
        *,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> TestResponse:
        """Send any other request, with this visitor's cookies and headers.

        Args:
            method: Such as `GET`.
            url: A path, or a whole URL.
            headers: Sent with this request.
            options: What Flask's test client takes, such as `data`, `json` and `query_string`.
        """
        root = self.app.config["APPLICATION_ROOT"].rstrip("/")
        parts = urlsplit(url)
        if root and parts.path.startswith(f"{root}/"):
            # Flask's test client adds it.
            url = parts._replace(path=parts.path[len(root) :]).geturl()
        given = {**self.headers, **(headers or {})}
        self._response = self.client.open(url, method=method, headers=given, **options)
        return self._response

    # -- inside -------------------------------------------------------------------------

    @property
    def token_field(self) -> str:
        """The name of the field that holds the flow's token: FSM_TOKEN_FIELD."""
        return state_of(self.app).config.token_field

    @property
    def to_field(self) -> str:
        """The name of the field that says where to go: FSM_TO_FIELD."""
        return state_of(self.app).config.to_field

    def _described(self) -> str:
        text = self.text.strip()
        return f"{self.path} answered {self.response.status}: {text[:EXCERPT]!r}"


class Form:
    """A form as a page showed it. It can be submitted again, as by a double click."""

    def __init__(self, visitor: Visitor, page: str, fields: FormFields) -> None:
        self._visitor = visitor
        self._page = page
        self._fields = fields
        self.id: str = fields.id
        self.name: str = fields.name
        self.method: str = fields.method
        """`GET` or `POST`."""
        self.values: dict[str, list[str]] = fields.values()
        """What would be sent if the user typed nothing, by the fields' names."""

    def __getitem__(self, name: str) -> str:
        return self.values[name][0]

    @property
    def token(self) -> str:
        """The flow's token in this form; raises KeyError if there is none."""
        return self[self._visitor.token_field]

    def button(self, which: str) -> Control | None:
        """Return the button with this `name`, `value`, `id` or text; None if there is none."""
        return next((each for each in self._fields.buttons if each.is_called(which)), None)

    def submit(
        self,
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        to: str | None = None,
        button: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> TestResponse:
        """Send the form with its hidden fields, as a browser would.

        Args:
            fields: What is typed or chosen, by the fields' names, in place of what the form holds.
                A list sends several values, None leaves the field out (a checkbox that is
                cleared), and a pair of an open file and its name uploads a file. A field that the
                form does not have is sent too.
            to: The state to go to. A button that says so is pressed; else it is a field.
            button: Which button is pressed. By default the first, as Enter does; with `to` none.
            headers: Sent with this request.
            more: More fields, as keyword arguments.

        Raises:
            LookupError: There is no such button.
        """
        visitor, sent = self._visitor, dict(self.values)
        pressed = self._pressed(to, button)
        if pressed is not None and pressed.name:
            sent[pressed.name] = [*sent.get(pressed.name, ()), pressed.value]
        if to is not None:
            sent[visitor.to_field] = [to]
        typed: dict[str, Any] = {**sent, **(fields or {}), **more}
        data = {name: value for name, value in typed.items() if value is not None}
        action = (pressed.action if pressed is not None else None) or self._fields.action
        url = urljoin(self._page, action or "")
        method = (pressed.method if pressed is not None else None) or self.method
        if method == "GET":
            query = {"query_string": data} if data else {}
            return visitor.request("GET", url.partition("?")[0], headers=headers, **query)
        return visitor.request("POST", url, headers=headers, data=data)

    def _pressed(self, to: str | None, button: str | None) -> Control | None:
        buttons = self._fields.buttons
        if button is not None:
            found = self.button(button)
            if found is None:
                names = [each.text or each.value or each.name for each in buttons]
                raise LookupError(f"The form has no button {button!r}, but {names}.")
            return found
        if to is not None:
            name = self._visitor.to_field
            return next((each for each in buttons if (each.name, each.value) == (name, to)), None)
        return buttons[0] if buttons else None
