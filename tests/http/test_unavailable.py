"""A store whose server can't be reached: nothing is shown, nothing is lost."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ..apps import Shop, Visitor, assert_refused, config_for


class Breakable(Shop):
    """A shop on a SQLite file that can be taken away and brought back."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "flows.db"
        super().__init__({**config_for(f"sqlite:///{self.file}"), "FSM_STORE_TIMEOUT": 1.0})
        self.app.add_url_rule("/peek", "peek", lambda: self.fsm.current)

    def take_away(self) -> None:
        self.app.extensions["fsm"].store.records.engine.dispose()
        self.file.rename(self.file.with_suffix(".away"))
        self.file.mkdir()

    def bring_back(self) -> None:
        self.file.rmdir()
        self.file.with_suffix(".away").rename(self.file)


@pytest.fixture
def shop(tmp_path: Path) -> Breakable:
    return Breakable(tmp_path)


@pytest.fixture
def visitor(shop: Breakable) -> Visitor:
    return shop.visitor().walk("cart")


@pytest.mark.parametrize("asking", ["html", "json", "htmx"])
def test_no_page_opens_and_no_view_runs(shop: Breakable, visitor: Visitor, asking: str) -> None:
    """A GET and a POST are 503 with Retry-After, and work again afterwards."""
    token = visitor.token("address")
    shop.ran.clear()
    shop.take_away()
    for response in (
        visitor.open("address", asking),
        visitor.post("address", {"way": "delivery"}, token, asking),
    ):
        assert_refused(response, asking, 503, "unavailable")
        assert response.headers["Retry-After"] == "1"
    assert shop.ran == []
    shop.bring_back()
    assert visitor.see("address")["rev"] == 1
    assert visitor.post("address", {"way": "delivery"}, token).location == "/delivery"


def test_what_was_typed_is_shown_and_can_be_sent_again(shop: Breakable, visitor: Visitor) -> None:
    """The page's own form is the one that was sent, to the letter, token and all."""
    token = visitor.token("address")
    form = {"way": "delivery", "street": "<Elm> 5"}
    shop.take_away()
    page = visitor.post("address?to=delivery", form, token)
    assert page.status_code == 503
    assert "&lt;Elm&gt; 5" in page.text
    shop.bring_back()
    again = visitor.form()
    assert again.values == {name: [value] for name, value in {**form, "fsm_token": token}.items()}
    assert again.submit().location == "/delivery"
    assert visitor.path == "/address?to=delivery"


def test_a_password_is_neither_shown_nor_sent_again(shop: Breakable, visitor: Visitor) -> None:
    """Then there is no form to send again, for it would be another one."""
    token = visitor.token("address")
    shop.take_away()
    page = visitor.post("address", {"way": "delivery", "password": "hush"}, token)
    assert "hush" not in page.text
    assert "fsm-resend" not in page.text
    shop.bring_back()


def test_the_cause_is_logged_and_not_told(
    shop: Breakable, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The visitor learns nothing of files and servers, the operator does."""
    shop.take_away()
    with caplog.at_level(logging.ERROR, "flask_fsm"):
        page = visitor.open("address")
    assert "unable to open" in caplog.text
    assert "sqlite" not in page.text.lower()
    assert str(shop.file) not in page.text
    shop.bring_back()


def test_a_view_without_guard_gets_it_too(shop: Breakable, visitor: Visitor) -> None:
    """Wherever the flow is asked for, the answer is 503 with Retry-After."""
    shop.take_away()
    response = visitor.open("peek")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    shop.bring_back()
    assert visitor.open("peek").text == "address"
