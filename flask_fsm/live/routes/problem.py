"""Problem: why an endpoint refuses a request, answered as application/problem+json (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

from flask import Response, current_app

from ...errors import Code, FSMError, StoreUnavailable
from ...responses import Refusal, RefusalContext
from ...runtime.app_state import app_state
from ...texts import Text
from ..admission import NotAdmitted
from ..protocol.frames import dumps

__all__ = ["Problem", "problem_of"]


class Problem(Exception):
    """An endpoint refuses a request because of an error; `response()` is the answer."""

    def __init__(self, error: FSMError, **headers: str) -> None:
        super().__init__(error.message)
        self.error = error
        self.headers: dict[str, str] = {
            name.replace("_", "-"): value for name, value in headers.items()
        }

    @classmethod
    def of(cls, status: int, reason: Code, text: Text, **headers: str) -> Problem:
        """Return a problem with this HTTP status, code and text."""
        return cls(FSMError(text, code=reason, status=status), **headers)

    def response(self) -> Response:
        """Return the problem document, the same as a page's for a client that accepts JSON.

        Where the app has refused a client by a response of its own, return that.
        """
        if isinstance(self.error, NotAdmitted) and self.error.response is not None:
            return current_app.make_response(self.error.response)
        status = self.error.status
        document = Refusal.of(self.error, RefusalContext()).to_dict()
        document |= {"title": HTTPStatus(status).phrase, "detail": self.error.message}
        response: Response = current_app.response_class(
            dumps(document), status, content_type="application/problem+json"
        )
        if self.error.retry_after is not None:
            response.headers["Retry-After"] = str(self.error.retry_after)
        response.headers.update(self.headers)
        # Clients decide by this response whether and how to reconnect, so it must be fresh.
        response.headers["Cache-Control"] = "no-store"
        response.vary.add("Cookie")
        return response


def problem_of(error: FSMError) -> Problem:
    """Return the problem of an error, or raise the error again if the app is at fault (5xx)."""
    if isinstance(error, StoreUnavailable):
        app_state().outages.log(error)
    elif error.is_server_error:
        raise error
    return Problem(error)
