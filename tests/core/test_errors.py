"""What errors are about, and what they answer a client with."""

from __future__ import annotations

import json

import pytest

from flask_fsm import (
    Code,
    DefinitionError,
    FlowBusy,
    FSMError,
    Machine,
    Reason,
    StaleFlow,
    UnknownState,
    UnknownTarget,
)


def test_a_name_that_the_definition_gets_wrong_is_a_500_and_one_of_a_client_a_400() -> None:
    """Both have the code `unknown_state`; the class and the status tell whose fault it is."""
    with pytest.raises(UnknownState) as ours:
        Machine("m", [("a", "b")], initial="x")
    with pytest.raises(UnknownTarget) as theirs:
        Machine("m", [("a", "b")]).flow().transition("x")
    assert (ours.value.status, ours.value.code) == (500, Code.UNKNOWN_STATE)
    assert (theirs.value.status, theirs.value.code) == (400, Code.UNKNOWN_STATE)
    assert not isinstance(theirs.value, DefinitionError)


def test_a_busy_flow_is_a_conflict_that_passes_and_no_stale_one() -> None:
    """The same request may succeed in a moment, whereas a stale one never does."""
    assert not issubclass(FlowBusy, StaleFlow)
    assert (FlowBusy.status, FlowBusy.retry_after) == (StaleFlow.status, 1) == (409, 1)


def test_an_error_may_have_a_status_and_a_code_of_its_own() -> None:
    """Those of the class are the default."""
    own = FSMError("Sold out.", code="sold_out", status=409)
    assert (own.status, own.code, own.reason) == (409, "sold_out", "sold_out")
    assert (FSMError().status, FSMError().code) == (500, Code.ERROR)


def test_a_code_is_its_text() -> None:
    """On the wire, in a log and in a comparison."""
    reason = Reason(Code.NO_EDGE, "No.")
    assert json.dumps(reason) == '["no_edge", "No."]'
    assert f"{Code.NO_EDGE}" == repr(Code.NO_EDGE).strip("'") == "no_edge"
