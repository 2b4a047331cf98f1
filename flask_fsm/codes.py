"""The machine-readable codes of errors: the contract with clients (docs/http.rst)."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Code"]


class Code(StrEnum):
    """What an error is about, for programs: `error.code`, and `reason` in a problem document.

    Each member is a plain text on the wire, and keeps its spelling from release to release. The
    docstring of a member gives the HTTP status, who can do something about it (the client, the
    developer of the app, or the operator of the server), and what it means. A guard or a validator
    may raise its error with a code that the app defines, a plain `str`.
    """

    # -- the definition, found at set-up
    DEFINITION = "definition"
    """500, developer: a definition, or its use by the app, is faulty. In a `SnapshotError` 410:
    a stored flow began at a state, or ended with one, that the definition no longer has."""
    DUPLICATE_STATE = "duplicate_state"
    """500, developer: two states have the same name."""
    DUPLICATE_EVENT = "duplicate_event"
    """500, developer: two handlers or edges of one state listen to the same event."""
    DUPLICATE_ENDPOINT = "duplicate_endpoint"
    """500, developer: two functions answer at the same path."""
    NO_INITIAL = "no_initial"
    """500, developer: the machine has no initial state."""
    UNREACHABLE = "unreachable"
    """500, developer: no path leads from the initial state to this state."""
    FINAL_WITH_WAY_OUT = "final_with_way_out"
    """500, developer: a final state has an outgoing edge."""
    DEAD_END = "dead_end"
    """500, developer: no final state can be reached from this state."""
    NEEDS_STORE = "needs_store"
    """500, developer: the machine uses a feature for which `FSM_STORE_URL` must name a server."""
    CONFIG = "config"
    """500, developer: a config key is missing, unknown or has an invalid value."""

    # -- mistakes in the app's code, found while it runs
    ERROR = "error"
    """500, developer: an `FSMError` that was raised without a code."""
    CRASHED = "crashed"
    """500, developer: a rule or an event handler raised an unexpected exception."""
    CIRCULAR = "circular"
    """500, developer: a rule asked whether an edge can be taken, which its own answer decides."""
    MISSING_ARGUMENTS = "missing_arguments"
    """500, developer: the URL of the next page needs arguments that were not given."""
    GET_ADVANCES = "get_advances"
    """500, developer: `advance()` or `transition()` was called during a GET or HEAD request."""
    MOVED_BY_RULE = "moved_by_rule"
    """500, developer: a rule tried to move the flow that it was judging."""
    NO_CLIENT = "no_client"
    """500, developer: `transmit()` was called outside an event handler."""
    RESUME_TOO_LATE = "resume_too_late"
    """500, developer: `flow.fast_forward()` was called outside the commit of an edit."""
    REQUEST_OVER = "request_over"
    """500, developer: a flow of an earlier request, or one read before its lock was held, was
    used."""
    RESPONSE_BEGUN = "response_begun"
    """500, developer: a stream made a token when its cookie could no longer name the flow."""
    IN_TURN = "in_turn"
    """500, developer: a request used `fsm.live.flow()` on the flow whose lock it holds itself."""
    NOT_BEGUN = "not_begun"
    """409, developer: a resume link was requested for a flow that has no commit yet."""

    # -- the form
    BAD_BODY = "bad_body"
    """400, client: the body is not the form or JSON that its content type says, or not UTF-8."""
    BODY_TOO_LARGE = "body_too_large"
    """413, client: the body has more bytes or parts than the app's `MAX_CONTENT_LENGTH`,
    `MAX_FORM_MEMORY_SIZE` or `MAX_FORM_PARTS` allow, so it was not read."""
    BAD_TOKEN = "bad_token"  # noqa: S105
    """400, client: the token is malformed, empty, or was not signed by this app."""
    NO_TOKEN = "no_token"  # noqa: S105
    """400, client: `FSM_REQUIRE_TOKEN` is on and the form has no token."""
    UNKNOWN_STATE = "unknown_state"
    """400, client: the request names a state that the machine does not have. In a definition or in
    a call by the app 500, developer."""
    VALIDATION = "validation"
    """422, client: a validator refused the answers."""
    INVALID_DATA = "invalid_data"
    """422, client: the answers hold NaN, infinity or too many levels. Where the app's code gives a
    value of a type that can't be stored 500, developer."""
    TOO_LARGE = "too_large"
    """413, client: the flow would not fit into its store, or the event is too long."""

    # -- the edge
    NO_EDGE = "no_edge"
    """409, client: no edge leads from this state to the target. Where the app's code names the
    target 500, developer."""
    TAKEN = "taken"
    """409, client: the edge was already taken in this run, and the machine has `repeat=False`."""
    SKIPPED = "skipped"
    """409, client: the machine has `ordered=True`, and an earlier transition is missing."""
    AMBIGUOUS = "ambiguous"
    """409, client: several edges could be taken, and none was named."""
    NOT_A_PAGE = "not_a_page"
    """500, developer: the target state has no page. Where the client names it 409."""
    GUARD = "guard"
    """409, client: a guard refused."""
    GUARD_RAISED = "guard_raised"
    """409, developer: a guard raised an unexpected exception, which counts as a refusal."""
    NO_EVENT = "no_event"
    """409, client: the current state has no such event."""

    # -- conflicts: what was sent is out of date
    STALE = "stale"
    """409, client: the flow has moved on since (the code of the base class `StaleFlow`)."""
    NOT_ON_PATH = "not_on_path"
    """409, client: other pages come before this one."""
    PAGES_CHANGED = "pages_changed"
    """409, client: the definition has changed since, and other pages come before this one now."""
    CLOSED = "closed"
    """409, client: the page was left by an edge whose back policy closes it, or the run has
    ended."""
    NOT_CURRENT = "not_current"
    """409, client: there is no token, and the page is not the current one."""
    OTHER_FLOW = "other_flow"
    """409, client: the token is of an earlier run, or of another flow."""
    OLD_REV = "old_rev"
    """409, client: the token was made before the latest commit."""
    OTHER_PAGE = "other_page"
    """409, client: the token is of another page."""
    OTHER_MACHINE = "other_machine"
    """409, developer: the token is of another machine than the one that guards the page. In debug
    mode and under `TESTING` 500."""
    REUSED_TOKEN = "reused_token"  # noqa: S105
    """409, client: the token was already submitted with another body."""
    STALE_REV = "stale_rev"
    """409, client: a live event names a rev that is not the flow's."""
    LOST_RACE = "lost_race"
    """409, client: another request committed first."""
    BUSY = "busy"
    """409 with `Retry-After`, client: another request holds the flow's lock or lease."""

    # -- the flow is over
    FINISHED = "finished"
    """410, client: the run has ended."""
    GONE = "gone"
    """410, client: the flow no longer exists (the code of the base class `FlowGone`)."""
    EXPIRED = "expired"
    """410, client: the flow is older than `FSM_FLOW_LIFETIME`."""
    RESET = "reset"
    """410, client: the run was abandoned, and a new one was started."""
    MOVED = "moved"
    """410, client: the flow was taken along at login, or continues on another device."""
    EVICTED = "evicted"
    """410, client: the store no longer has the flow."""
    NO_SESSION = "no_session"
    """410, client: there is a token, but no session cookie."""
    NOT_IN_SESSION = "not_in_session"
    """410, client: there is a token and a session cookie, but the session no longer holds the flow:
    it has ended, or its user has logged out."""
    BAD_SNAPSHOT = "bad_snapshot"
    """410, operator: what is stored can't be read as a flow of this machine."""
    LINK_USED = "link_used"
    """410, client: the resume link was used, or its flow has ended."""
    LINK_EXPIRED = "link_expired"
    """410, client: the resume link is too old."""

    # -- not found
    NOT_FOUND = "not_found"
    """404, client: there is no such machine or page, or it belongs to another visitor."""
    NO_FLOW = "no_flow"
    """404, client: there is no such flow, or it belongs to another visitor."""
    NO_KEY = "no_key"
    """404, client: the address lacks the URL argument that identifies the subject or the flow."""
    NO_PAGE = "no_page"
    """404, client: no page can be opened with the URL arguments of this address."""

    # -- the live part
    ORIGIN = "origin"
    """403, client: the request comes from a site that `FSM_ALLOWED_ORIGINS` does not list."""
    NOT_ADMITTED = "not_admitted"
    """401 or 403, client: the app does not let this client use the machine. Where the app says
    nothing about that although its views are protected 403, developer."""
    GROUP = "group"
    """403, client: the app does not let this client join the group."""
    BAD_GROUP = "bad_group"
    """400, client: this is not a valid name of a group. From `fsm.live.group()` 500."""
    TOO_MANY_GROUPS = "too_many_groups"
    """400, client: the request names more groups than one client may join."""
    TOO_MANY_CONNECTIONS = "too_many_connections"
    """429 with `Retry-After`, client: the flow, or the client's address, has as many connections as
    it may have."""
    BAD_HANDSHAKE = "bad_handshake"
    """400 or 426, client: this is not a valid websocket handshake."""
    WEBSOCKET_ONLY = "websocket_only"
    """426, client: each websocket of this machine has its own flow, so there is no other way in."""
    NOT_JSON = "not_json"
    """415, client: the event is not sent as JSON, by its `Content-Type`."""
    INVALID_PAYLOAD = "invalid_payload"
    """400, client: what was sent is not a valid frame."""
    ABORTED = "aborted"
    """In a frame, client: the app's function that finds the subject called `abort()`."""

    # -- the server
    UNAVAILABLE = "unavailable"
    """503 with `Retry-After`, operator: the store's server can't be reached, or is too slow."""
    FULL = "full"
    """503 with `Retry-After`, operator: the server has no room for another connection."""
    ONE_THREAD = "one_thread"
    """503, operator: the server has one thread only, which a connection must not occupy."""
    NO_SOCKET = "no_socket"
    """501, operator: the server gives no access to the socket, so it can't open a websocket."""

    # -- the message library, which knows no HTTP
    NO_MESSAGES = "no_messages"
    """500, developer: the queue is empty, or its listener has not been started."""
    QUEUE_FULL = "queue_full"
    """500, client: too many messages wait for this listener. A stream sends it, then ends."""
    UNKNOWN_LISTENER = "unknown_listener"
    """500, developer: the channel has no listener with this id."""
    UNKNOWN_CHANNEL = "unknown_channel"
    """500, developer: there is no channel with this id."""
    DUPLICATE_CHANNEL = "duplicate_channel"
    """500, developer: there is already a channel with this id."""

    def __repr__(self) -> str:
        """Return the text in quotes, as it reads in logs, in JSON and in the docs."""
        return repr(self.value)
