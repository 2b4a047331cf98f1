"""A visitor of the example app without a browser: reads the forms, and sends them filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from example_app.catalogue import today
from flask_fsm import testing


def open_day() -> date:
    """A day of the next week on which all shops are open: a Wednesday."""
    return next(day for n in range(1, 8) if (day := today() + timedelta(n)).weekday() == 2)


ADDRESS = {
    "name": "Ada Lovelace",
    "street": "Marmorgasse 4",
    "postcode": "1090",
    "city": "Vienna",
    "country": "AT",
}
PAYMENT = {"method": "transfer", "email": "ada@example.com"}
REVIEW = {"agreed": "y"}
PARCEL: dict[str, dict[str, str]] = {
    "": {"notebook": "2"},
    "delivery": {"how": "parcel"},
    "address": ADDRESS,
    "payment": PAYMENT,
    "review": REVIEW,
}
GIFT: dict[str, dict[str, str]] = {
    "": {"notebook": "2"},
    "delivery": {"how": "parcel", "gift": "y"},
    "address": ADDRESS,
    "wrapping": {"paper": "stars", "words": "For the long evenings"},
    "payment": PAYMENT,
    "review": REVIEW,
}
PICKUP: dict[str, dict[str, str]] = {
    "": {"notebook": "2"},
    "delivery": {"how": "pickup"},
    "pickup": {"shop": "mill", "day": open_day().isoformat()},
    "payment": PAYMENT,
    "review": REVIEW,
}
PASSWORD = "correct horse battery"
SIGNUP: dict[str, dict[str, str]] = {
    "": {"email": "ada@example.com", "password": PASSWORD, "again": PASSWORD},
    "profile": {"name": "Ada", "letters": "month"},
    "confirm": REVIEW,
}


class Visitor(testing.Visitor):
    """Somebody with cookies of their own, on the pages below `root`."""

    def __init__(self, app: Flask, root: str = "/checkout/") -> None:
        super().__init__(app)
        self.root = root

    def open(self, name: str) -> TestResponse:
        return self.request("GET", self.root + name)

    def form_of(self, name: str) -> testing.Form:
        """Open a page that must be open, and return the form with the flow's token."""
        response = self.open(name)
        assert response.status_code == 200, (name, response.status, response.location)
        return self.form()

    def fields(self, name: str, answers: Mapping[str, str]) -> dict[str, str]:
        """Open a page that must be open, and return what its form would send, filled in."""
        values = self.form_of(name).values
        return {**{name: value for name, (value, *_) in values.items()}, **answers}

    def post(self, name: str, fields: Mapping[str, str]) -> TestResponse:
        """Send these fields to a page, whatever it shows."""
        return self.request("POST", self.root + name, data=fields)

    def send(self, name: str, answers: Mapping[str, Any]) -> TestResponse:
        """Open a page, fill in its form, and send it."""
        return self.form_of(name).submit(answers)

    def walk(self, way: Mapping[str, Mapping[str, str]], to: str | None = None) -> None:
        """Send the forms of that way, each to where the one before it led, until the page `to`."""
        pages: Iterable[str] = way
        for name in pages:
            if name == to:
                return
            response = self.send(name, way[name])
            assert response.status_code == 303, (name, response.status, response.text)
