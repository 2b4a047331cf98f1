"""A visitor of the example app without a browser: reads the forms, and sends them filled in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from html import unescape

from flask import Flask
from werkzeug.test import TestResponse

from example_app.catalogue import today


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


def hidden(html: str) -> dict[str, str]:
    """The hidden fields of the page: tokens against forgery, and of the flow."""
    inputs = (
        dict(re.findall(r'([\w-]+)="([^"]*)"', tag)) for tag in re.findall(r"<input\s[^>]*>", html)
    )
    return {
        field["name"]: unescape(field["value"])
        for field in inputs
        if field.get("type") == "hidden" and "value" in field
    }


class Visitor:
    """Somebody with cookies of their own."""

    def __init__(self, app: Flask, root: str = "/checkout/") -> None:
        self.client = app.test_client()
        self.root = root

    def open(self, name: str) -> TestResponse:
        return self.client.get(self.root + name)

    def form(self, name: str, answers: Mapping[str, str]) -> dict[str, str]:
        """What the browser would send: the page's hidden fields, and the answers."""
        response = self.open(name)
        assert response.status_code == 200, (name, response.status, response.location)
        return {**hidden(response.text), **answers}

    def post(self, name: str, form: Mapping[str, str]) -> TestResponse:
        return self.client.post(self.root + name, data=form)

    def send(self, name: str, answers: Mapping[str, str]) -> TestResponse:
        """Open a page, fill in its form, and send it."""
        return self.post(name, self.form(name, answers))

    def walk(self, way: Mapping[str, Mapping[str, str]], to: str | None = None) -> None:
        """Send the forms of that way, each to where the one before it led, until the page `to`."""
        pages: Iterable[str] = way
        for name in pages:
            if name == to:
                return
            response = self.send(name, way[name])
            assert response.status_code == 303, (name, response.status, response.text)
