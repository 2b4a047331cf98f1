"""Guarded page-flow state machines for Flask."""

from .core.event import Event, EventStatus
from .core.flow import Flow, Progress, Result
from .core.history import Entry, History
from .core.machine import Machine, State, Transition
from .core.path import Path
from .core.rules import guard, hook, pre_transition, validator
from .core.snapshot import Snapshot
from .errors import (
    Code,
    ConfigError,
    DefinitionError,
    DuplicateEndpoint,
    DuplicateEvent,
    DuplicateState,
    DuplicateTransition,
    FlowBusy,
    FlowFinished,
    FlowGone,
    FSMError,
    GuardRefused,
    InvalidData,
    InvalidToken,
    InvalidTransition,
    MissingArguments,
    NotAPage,
    NotFound,
    Reason,
    RuleError,
    SkippedTransition,
    SnapshotError,
    SnapshotTooLarge,
    StaleFlow,
    StoreUnavailable,
    UnknownState,
    UnknownTarget,
    Unreachable,
    ValidationFailed,
)
from .extension import FlaskFSM
from .pages.api import MachineViews
from .pages.flow_reports import FlowSummary
from .reports.funnel import Funnel, LogEntry
from .responses import Refusal
from .security.tokens import Token

__all__ = [
    "Code",
    "ConfigError",
    "DefinitionError",
    "DuplicateEndpoint",
    "DuplicateEvent",
    "DuplicateState",
    "DuplicateTransition",
    "Entry",
    "Event",
    "EventStatus",
    "FSMError",
    "FlaskFSM",
    "Flow",
    "FlowBusy",
    "FlowFinished",
    "FlowGone",
    "FlowSummary",
    "Funnel",
    "GuardRefused",
    "History",
    "InvalidData",
    "InvalidToken",
    "InvalidTransition",
    "LogEntry",
    "Machine",
    "MachineViews",
    "MissingArguments",
    "NotAPage",
    "NotFound",
    "Path",
    "Progress",
    "Reason",
    "Refusal",
    "Result",
    "RuleError",
    "SkippedTransition",
    "Snapshot",
    "SnapshotError",
    "SnapshotTooLarge",
    "StaleFlow",
    "State",
    "StoreUnavailable",
    "Token",
    "Transition",
    "UnknownState",
    "UnknownTarget",
    "Unreachable",
    "ValidationFailed",
    "guard",
    "hook",
    "pre_transition",
    "validator",
]
