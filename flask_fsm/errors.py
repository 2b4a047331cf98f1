"""One tree of errors. Each carries what it is about, and says what happened and what to do.

Four questions are kept apart: is the name known (`UnknownState`, `SnapshotError`), is the edge
allowed here and now (`InvalidTransition` and its children), did a rule refuse (`GuardRefused`,
`ValidationFailed`), or did a rule crash (`RuleError`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from .codes import Code

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
    "Unreachable",
    "ValidationFailed",
]


class Reason(NamedTuple):
    """Why an edge can't be taken: a `code` for programs and a `text` for people.

    `code` is a `Code`, or a `str` of the app's own.
    """

    code: str
    text: str


class FSMError(Exception):
    """Base of all errors of this package.

    `flow` is the flow's id, or None; `source` and `target` are state names, or None; `allowed`
    names the states that may follow; `code` is a `Code`, or a `str` of the app's own; `reasons`
    lists every `Reason`.
    """

    status: int = 500
    """The HTTP status that a guarded page answers with."""
    retry_after: ClassVar[int | None] = None
    """After how many seconds the same request may succeed, if that is known."""
    default_code: ClassVar[Code] = Code.ERROR

    def __init__(
        self,
        message: str = "",
        *,
        flow: str | None = None,
        source: str | None = None,
        target: str | None = None,
        allowed: Iterable[str] = (),
        code: str | None = None,
        reasons: Iterable[Reason] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.flow = flow
        self.source = source
        self.target = target
        self.allowed: tuple[str, ...] = tuple(allowed)
        self.code: str = code or self.default_code
        self.reasons: tuple[Reason, ...] = tuple(reasons) or (Reason(self.code, message),)

    @property
    def reason(self) -> str:
        """The machine-readable code of the first reason."""
        return self.reasons[0].code

    def __str__(self) -> str:
        return self.message


# -- the definition -------------------------------------------------------------------------


class DefinitionError(FSMError):
    """A machine, or the way an app uses it, is faulty; `faults` holds every fault found."""

    default_code = Code.DEFINITION

    def __init__(
        self, message: str = "", *, faults: Sequence[DefinitionError] = (), **context: Any
    ) -> None:
        super().__init__(message, **context)
        self.faults: tuple[DefinitionError, ...] = tuple(faults) or (self,)

    @classmethod
    def of(cls, where: str, faults: Sequence[DefinitionError]) -> DefinitionError:
        """One error for all `faults`, of the kind of the first, naming each of them."""
        first = faults[0]
        if len(faults) == 1:
            text = f"{where}: {first.message}"
        else:
            text = f"{where} has {len(faults)} faults:" + "".join(
                f"\n  {number}. {fault.message}" for number, fault in enumerate(faults, 1)
            )
        error = type(first)(
            text,
            faults=faults,
            source=first.source,
            target=first.target,
            code=first.code,
        )
        error.status = DefinitionError.status
        return error


class DuplicateState(DefinitionError):
    """Two states of one machine have the same name."""

    default_code = Code.DUPLICATE_STATE


class DuplicateEvent(DefinitionError):
    """Two handlers or edges of one state listen to the same event."""

    default_code = Code.DUPLICATE_EVENT


class DuplicateEndpoint(DefinitionError):
    """Two functions answer at the same path."""

    default_code = Code.DUPLICATE_ENDPOINT


class UnknownState(DefinitionError):
    """A name that is no state of the machine."""

    default_code = Code.UNKNOWN_STATE
    status = 400


class Unreachable(DefinitionError):
    """No walk from the initial state arrives at this state."""

    default_code = Code.UNREACHABLE


class ConfigError(FSMError):
    """A setting of the app is missing or can't be used; the text names the key and the remedy."""

    default_code = Code.CONFIG


# -- a transition ---------------------------------------------------------------------------


class InvalidTransition(FSMError):
    """The machine has no such edge from here."""

    default_code = Code.NO_EDGE
    status = 409


class DuplicateTransition(InvalidTransition):
    """The edge has been taken in this run, and the machine says `repeat=False`."""

    default_code = Code.TAKEN


class SkippedTransition(InvalidTransition):
    """The machine says `ordered=True`, and a transition declared before this one is missing."""

    default_code = Code.SKIPPED


class NotAPage(InvalidTransition):
    """The state exists but no view shows it, so `advance()` has nowhere to send the visitor."""

    default_code = Code.NOT_A_PAGE


class MissingArguments(FSMError):
    """URL arguments of a page that neither the call nor the request gives; the text names them."""

    default_code = Code.MISSING_ARGUMENTS


class GuardRefused(FSMError):
    """A guard judged the edge and said no (or raised, which is logged)."""

    default_code = Code.GUARD
    status = 409


class ValidationFailed(FSMError):
    """A validator said why not. `messages` are about the whole, `fields` maps a field to its own.

    Raise it from a validator with a text, with a mapping of field to text or texts, or with
    a text and `field=`.
    """

    default_code = Code.VALIDATION
    status = 422

    def __init__(
        self,
        message: str | Mapping[str, str | Iterable[str]] = "",
        *,
        field: str | None = None,
        messages: Iterable[str] = (),
        fields: Mapping[str, Iterable[str]] | None = None,
        **context: Any,
    ) -> None:
        self.messages: list[str] = list(messages)
        self.fields: dict[str, list[str]] = {
            name: list(texts) for name, texts in (fields or {}).items()
        }
        if isinstance(message, str):
            if field is not None:
                self.fields.setdefault(field, []).append(message)
            elif message and not self.messages and not self.fields:
                self.messages.append(message)
        else:
            for name, texts in message.items():
                self.fields.setdefault(name, []).extend(
                    [texts] if isinstance(texts, str) else texts
                )
            message = "; ".join(
                [*self.messages, *(f"{name}: {', '.join(t)}" for name, t in self.fields.items())]
            )
        super().__init__(message, **context)


class InvalidData(ValidationFailed):
    """Data that can't be kept as it is, because JSON has no form for it; `fields` names it."""

    default_code = Code.INVALID_DATA


class RuleError(FSMError):
    """A rule raised what is no refusal: a fault of the app. The cause is chained."""

    default_code = Code.CRASHED


# -- the run --------------------------------------------------------------------------------


class StaleFlow(FSMError):
    """The flow has moved on: an old form, a page that is not on the path, or a lost race."""

    default_code = Code.STALE
    status = 409


class FlowBusy(StaleFlow):
    """Another request of this flow is being served, and the wait for it was over."""

    default_code = Code.BUSY
    retry_after = 1


class FlowFinished(FSMError):
    """The run has ended, so nothing more can be taken in it."""

    default_code = Code.FINISHED
    status = 410


class FlowGone(FSMError):
    """The run is not there any more: expired, evicted, or made by a definition that is gone."""

    default_code = Code.GONE
    status = 410


class NotFound(FSMError):
    """A machine, flow or page that isn't there, or isn't yours."""

    default_code = Code.NOT_FOUND
    status = 404


class StoreUnavailable(FSMError):
    """The server that keeps the flows can't be reached, or did not answer in time."""

    default_code = Code.UNAVAILABLE
    status = 503
    retry_after = 1


class InvalidToken(FSMError):
    """The form's token is missing, empty, or was not signed by this app."""

    default_code = Code.BAD_TOKEN
    status = 400


class SnapshotError(FSMError):
    """A stored text that is no snapshot of this machine."""

    default_code = Code.BAD_SNAPSHOT
    status = 410


class SnapshotTooLarge(FSMError):
    """The snapshot doesn't fit its store. `size` and `limit` are in bytes."""

    default_code = Code.TOO_LARGE
    status = 413

    def __init__(self, message: str = "", *, size: int = 0, limit: int = 0, **context: Any) -> None:
        super().__init__(message, **context)
        self.size = size
        self.limit = limit


# -- channels -------------------------------------------------------------------------------


class NoMessages(FSMError):
    """The queue is empty, or its listener has not been started."""

    default_code = Code.NO_MESSAGES


class QueueFull(FSMError):
    """As many messages wait as the queue may hold, and none of them may be dropped."""

    default_code = Code.QUEUE_FULL


class UnknownListener(FSMError):
    """The channel has no listener of this id."""

    default_code = Code.UNKNOWN_LISTENER


class UnknownChannel(FSMError):
    """There is no channel of this id."""

    default_code = Code.UNKNOWN_CHANNEL


class DuplicateChannel(FSMError):
    """There is a channel of this id already."""

    default_code = Code.DUPLICATE_CHANNEL
