"""What the example app keeps in files: the key, and the ledger."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import TypeVar

import pytest

from example_app.key import load_or_create_key
from example_app.ledger import Ledger

T = TypeVar("T")


def at_once(number: int, do: Callable[[int], T]) -> list[T]:
    """Do something in several threads at the same moment, and return what came of it."""
    together = threading.Barrier(number)

    def wait_and_do(place: int) -> T:
        together.wait(10)
        return do(place)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(wait_and_do, range(number)))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.mark.parametrize("run", range(10))
def test_all_that_start_at_once_get_one_key(tmp_path: Path, run: int) -> None:
    """However many come first, there is one key, which nobody else may read, and no other file."""
    keys = set(at_once(8, lambda _: load_or_create_key(tmp_path)))
    assert len(keys) == 1
    assert keys == {load_or_create_key(tmp_path)}
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_order_of_a_flow_is_kept_once(ledger: Ledger) -> None:
    """The same flow again makes no other order, not even at the same moment, in a new file."""
    at_once(8, lambda _: ledger.place("one", {"day": date(2026, 5, 20)}))
    ledger.place("two", {"day": None})
    assert ledger.orders() == [{"day": "2026-05-20"}, {"day": None}]


def test_an_address_has_one_member(ledger: Ledger) -> None:
    """The same address again, in capitals, makes no other member."""
    assert not ledger.has_member("ada@example.com")
    ledger.join("Ada@example.com", {"email": "Ada@example.com"})
    at_once(8, lambda place: ledger.join("ADA@example.com", {"place": place}))
    assert ledger.has_member("ada@EXAMPLE.com")
    assert ledger.members() == [{"email": "Ada@example.com"}]
