"""The errors of this package: one tree under `FSMError`.

The text of an error says what happened and what to do about it. Its attributes say what it is
about, and its class what kind of problem there is:

- the definition or its use is faulty: `DefinitionError` and its children, `ConfigError`;
- the request names a state that does not exist: `UnknownTarget`;
- what is stored can't be read: `SnapshotError`;
- the transition is not allowed here or now: `InvalidTransition` and its children, `StaleFlow`,
  `FlowBusy`, `FlowFinished`;
- a rule refused: `GuardRefused`, `ValidationFailed`;
- a rule crashed: `RuleError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from .codes import Code
from .texts import NOT_ACCEPTED, OwnText, Text, as_texts, join_texts, one_text, without_empty

__all__ = [
    "Code",
    "ConfigError",
    "DefinitionError",
    "DuplicateChannel",
    "DuplicateEndpoint",
    "DuplicateEvent",
    "DuplicateState",
    "DuplicateTransition",
    "FSMError",
    "FlowBusy",
    "FlowFinished",
    "FlowGone",
    "GuardRefused",
    "InvalidData",
    "InvalidToken",
    "InvalidTransition",
    "MissingArguments",
    "NoMessages",
    "NotAPage",
    "NotFound",
    "QueueFull",
    "Reason",
    "RuleError",
    "SkippedTransition",
    "SnapshotError",
    "SnapshotTooLarge",
    "StaleFlow",
    "StoreUnavailable",
    "UnknownChannel",
    "UnknownListener",
    "UnknownState",
    "UnknownTarget",
    "Unreachable",
    "ValidationFailed",
]


class Reason(NamedTuple):
    """Why an edge can't be taken.

    Attributes:
        code: For programs: a `Code`, or a `str` that the app defines.
        text: For people.
    """

    code: str
    text: str


class FSMError(Exception):
    """Base class of all errors of this package.

    Args:
        message: What happened, and what to do about it: a `str`, Markup, or a lazy translation.
        flow: The id of the flow, if there is one.
        source: The name of the state where the transition starts.
        target: The name of the state where it was to lead.
        allowed: The names of the states to which the flow may go from where it is.
        code: A `Code`, or a `str` that the app defines; default: the `default_code` of the class.
        reasons: Every `Reason`; default: one of `code` and `message`.
        status: The HTTP status; default: the `status` of the class.

    Attributes:
        message (str): As given, for visitors: in the language of the request.
        flow (str | None): As given.
        source (str | None): As given.
        target (str | None): As given.
        allowed (tuple[str, ...]): As given.
        code (str): As given, or the default of the class.
        reasons (tuple[Reason, ...]): As given; never empty.
    """

    status: int = 500
    """The HTTP status that a guarded page answers with."""
    retry_after: ClassVar[int | None] = None
    """Seconds after which the same request may succeed; None if that is not known."""
    default_code: ClassVar[str] = Code.ERROR
    """The code of an error of this class that is given none."""

    def __init__(
        self,
        message: Text = "",
        *,
        flow: str | None = None,
        source: str | None = None,
        target: str | None = None,
        allowed: Iterable[str] = (),
        code: str | None = None,
        reasons: Iterable[Reason] = (),
        status: int | None = None,
    ) -> None:
        self._english = message.in_english() if isinstance(message, OwnText) else None
        self.message: str = one_text(message)
        super().__init__(self._english or self.message)
        self.flow = flow
        self.source = source
        self.target = target
        self.allowed: tuple[str, ...] = tuple(allowed)
        self.code: str = code or self.default_code
        self.reasons: tuple[Reason, ...] = tuple(
            Reason(code, one_text(text)) for code, text in reasons
        ) or (Reason(self.code, self.message),)
        if status is not None:
            self.status = status

    @property
    def reason(self) -> str:
        """The machine-readable code of the first reason."""
        return self.reasons[0].code

    @property
    def is_server_error(self) -> bool:
        """Whether the app or its server is at fault (5xx), and not that a flow is busy."""
        return self.status >= 500 and self.code != Code.BUSY

    def __str__(self) -> str:
        """Return the message; in tracebacks and logs that of this package is in English."""
        return self._english or self.message


# -- the definition -------------------------------------------------------------------------


class DefinitionError(FSMError):
    """A machine, or the way an app uses it, is faulty.

    Args:
        message: What is wrong, and the remedy.
        faults: The errors that this one sums up; default: itself alone.
        **context: As for `FSMError`.

    Attributes:
        faults (tuple[DefinitionError, ...]): Every fault that was found; never empty.
    """

    default_code: ClassVar[str] = Code.DEFINITION

    def __init__(
        self, message: str = "", *, faults: Sequence[DefinitionError] = (), **context: Any
    ) -> None:
        super().__init__(message, **context)
        self.faults: tuple[DefinitionError, ...] = tuple(faults) or (self,)

    @classmethod
    def of(cls, where: str, faults: Sequence[DefinitionError]) -> DefinitionError:
        """Return one error that names all `faults`; its class is that of the first."""
        first = faults[0]
        if len(faults) == 1:
            text = f"{where}: {first.message}"
        else:
            text = f"{where} has {len(faults)} faults:" + "".join(
                f"\n  {number}. {fault.message}" for number, fault in enumerate(faults, 1)
            )
        return type(first)(
            text,
            faults=faults,
            source=first.source,
            target=first.target,
            code=first.code,
        )


class DuplicateState(DefinitionError):
    """Two states of one machine have the same name."""

    default_code: ClassVar[str] = Code.DUPLICATE_STATE


class DuplicateEvent(DefinitionError):
    """Two handlers or edges of one state have the same event."""

    default_code: ClassVar[str] = Code.DUPLICATE_EVENT


class DuplicateEndpoint(DefinitionError):
    """Two functions answer at the same path."""

    default_code: ClassVar[str] = Code.DUPLICATE_ENDPOINT


class UnknownState(DefinitionError):
    """A definition, a view or `migrate()` names a state that the machine does not have."""

    default_code: ClassVar[str] = Code.UNKNOWN_STATE


class Unreachable(DefinitionError):
    """No path leads from the initial state to this state."""

    default_code: ClassVar[str] = Code.UNREACHABLE


class ConfigError(FSMError):
    """A setting of the app is missing or invalid; the text names the key and the remedy."""

    default_code: ClassVar[str] = Code.CONFIG


# -- a transition ---------------------------------------------------------------------------


class UnknownTarget(FSMError):
    """A request (400) or the app's code (500) names a target that is not a state."""

    default_code: ClassVar[str] = Code.UNKNOWN_STATE
    status = 400


class InvalidTransition(FSMError):
    """The machine has no such edge from the current state."""

    default_code: ClassVar[str] = Code.NO_EDGE
    status = 409


class DuplicateTransition(InvalidTransition):
    """The edge was already taken in this run, and the machine has `repeat=False`."""

    default_code: ClassVar[str] = Code.TAKEN


class SkippedTransition(InvalidTransition):
    """The machine has `ordered=True`, and an earlier transition is missing."""

    default_code: ClassVar[str] = Code.SKIPPED


class NotAPage(InvalidTransition):
    """The target, named by a client (409) or by the app's code (500), is a state without a page."""

    default_code: ClassVar[str] = Code.NOT_A_PAGE


class MissingArguments(FSMError):
    """The URL of a page needs the arguments named in the text: no call or request gives them."""

    default_code: ClassVar[str] = Code.MISSING_ARGUMENTS


class GuardRefused(FSMError):
    """A guard refused the edge, or raised an unexpected exception, which is logged."""

    default_code: ClassVar[str] = Code.GUARD
    status = 409


class ValidationFailed(FSMError):
    """A validator refused the answers.

    Raise it in a validator or a pre_transition. A text is a `str`, Markup, or a lazy translation;
    by default it says that the answers were not accepted.

    Args:
        message: What is wrong, as one text or several; or a mapping of each field to these.
        field: The name of the field that the text is about; default: the answers as a whole.
        messages: Texts about the answers as a whole.
        fields: Texts by the name of the field.
        **context: As for `FSMError`.

    Attributes:
        messages (list[str]): What is wrong with the answers as a whole.
        fields (dict[str, list[str]]): What is wrong with each field.
    """

    default_code: ClassVar[str] = Code.VALIDATION
    status = 422

    def __init__(
        self,
        message: Text | Iterable[Text] | Mapping[str, Text | Iterable[Text]] = "",
        *,
        field: str | None = None,
        messages: Iterable[Text] = (),
        fields: Mapping[str, Iterable[Text]] | None = None,
        **context: Any,
    ) -> None:
        by_field = {name: as_texts(texts) for name, texts in (fields or {}).items()}
        given: list[str] = []
        if isinstance(message, Mapping):
            for name, texts in message.items():
                by_field.setdefault(name, []).extend(as_texts(texts))
        else:
            given = as_texts(message)
            if field is not None:
                by_field.setdefault(field, []).extend(given)
        self.messages: list[str] = without_empty(messages)
        if not self.messages and not by_field:
            self.messages = without_empty(given) or [str(NOT_ACCEPTED)]
        self.fields: dict[str, list[str]] = {
            name: without_empty(texts) or [str(NOT_ACCEPTED)] for name, texts in by_field.items()
        }
        of_fields = (join_texts(": ", (n, join_texts(", ", t))) for n, t in self.fields.items())
        everything = join_texts("; ", [*self.messages, *of_fields])
        super().__init__(join_texts(" ", without_empty(given)) or everything, **context)


class InvalidData(ValidationFailed):
    """An answer of a client (422) or of the app's code (500) can't be stored; see `fields`."""

    default_code: ClassVar[str] = Code.INVALID_DATA


class RuleError(FSMError):
    """A rule raised an unexpected exception, which is a fault of the app.

    To refuse, a guard returns False or raises `GuardRefused`; a validator or a pre_transition
    raises `ValidationFailed` or `ValueError`. The exception that was raised is the `__cause__`.
    """

    default_code: ClassVar[str] = Code.CRASHED


# -- the run --------------------------------------------------------------------------------


class StaleFlow(FSMError):
    """The flow has moved on: a conflict of an old form, a closed page, or a lost race."""

    default_code: ClassVar[str] = Code.STALE
    status = 409


class FlowBusy(FSMError):
    """Another request holds the lock or the lease of this flow, and the wait for it timed out."""

    default_code: ClassVar[str] = Code.BUSY
    status = 409
    retry_after: ClassVar[int] = 1


class FlowFinished(FSMError):
    """The run has ended, so no further transition is possible in it."""

    default_code: ClassVar[str] = Code.FINISHED
    status = 410


class FlowGone(FSMError):
    """The flow no longer exists: it expired, was reset, moved or evicted."""

    default_code: ClassVar[str] = Code.GONE
    status = 410


class NotFound(FSMError):
    """A machine, flow or page that does not exist, or belongs to another visitor."""

    default_code: ClassVar[str] = Code.NOT_FOUND
    status = 404


class StoreUnavailable(FSMError):
    """The store's server can't be reached, or did not answer in time."""

    default_code: ClassVar[str] = Code.UNAVAILABLE
    status = 503
    retry_after: ClassVar[int] = 1


class InvalidToken(FSMError):
    """The form's token is missing, empty, or was not signed by this app."""

    default_code: ClassVar[str] = Code.BAD_TOKEN
    status = 400


class SnapshotError(FSMError):
    """What is stored can't be read as a flow of this machine."""

    default_code: ClassVar[str] = Code.BAD_SNAPSHOT
    status = 410


class SnapshotTooLarge(FSMError):
    """The snapshot doesn't fit into its store.

    Args:
        message: What happened, and the remedy.
        size: Of the snapshot, in bytes.
        limit: Of the store, in bytes.
        **context: As for `FSMError`.

    Attributes:
        size (int): As given.
        limit (int): As given.
    """

    default_code: ClassVar[str] = Code.TOO_LARGE
    status = 413

    def __init__(self, message: str = "", *, size: int = 0, limit: int = 0, **context: Any) -> None:
        super().__init__(message, **context)
        self.size = size
        self.limit = limit


# -- channels -------------------------------------------------------------------------------


class NoMessages(FSMError):
    """The queue is empty, or its listener has not been started."""

    default_code: ClassVar[str] = Code.NO_MESSAGES


class QueueFull(FSMError):
    """The queue has reached its limit, and none of its messages may be dropped."""

    default_code: ClassVar[str] = Code.QUEUE_FULL


class UnknownListener(FSMError):
    """The channel has no listener with this id."""

    default_code: ClassVar[str] = Code.UNKNOWN_LISTENER


class UnknownChannel(FSMError):
    """There is no channel with this id."""

    default_code: ClassVar[str] = Code.UNKNOWN_CHANNEL


class DuplicateChannel(FSMError):
    """There is already a channel with this id."""

    default_code: ClassVar[str] = Code.DUPLICATE_CHANNEL
