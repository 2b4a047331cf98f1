"""Products, shops and prices."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple


class Product(NamedTuple):
    name: str
    about: str
    price: Decimal


class Shop(NamedTuple):
    name: str
    place: str
    closed: frozenset[int]
    """Weekdays, Monday is 0."""
    hours: str


class Line(NamedTuple):
    """A line of the invoice."""

    text: str
    amount: Decimal


PRODUCTS = {
    "notebook": Product("Notebook", "Dotted, 160 pages, sewn to lie flat", Decimal("14.50")),
    "pencils": Product("Pencils", "Twelve of cedar, from 4H to 6B", Decimal("9.80")),
    "ink": Product("Ink", "Iron gall, 50 ml, darkens as it dries", Decimal("12.00")),
}
SHOPS = {
    "harbour": Shop(
        "Harbour Street", "Harbour Street 4", frozenset({6}), "Monday to Saturday, 9 to 18"
    ),
    "mill": Shop("Old Mill", "Mill Lane 21", frozenset({0, 6}), "Tuesday to Saturday, 10 to 19"),
}
COUNTRIES = {"AT": "Austria", "DE": "Germany", "CH": "Switzerland"}
PAPERS = {
    "plain": "Kraft, with a red string",
    "stars": "Night blue, with stars",
    "leaves": "Cream, with leaves",
}
METHODS = {
    "invoice": "Invoice, within 14 days",
    "transfer": "Bank transfer, in advance",
    "shop": "In the shop, at pick-up",
}
POSTAGE = Decimal("4.90")
WRAPPING = Decimal("3.00")


def today() -> date:
    """Return today's date in the time zone of the server, which is where the shops are."""
    return datetime.now().astimezone().date()


def bill(data: Mapping[str, Any]) -> list[Line]:
    """Return the invoice lines for the answers so far. Prices never come from the form."""
    cart = data.get("checkout.cart", {})
    lines = [
        Line(
            f"{count}\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN} {PRODUCTS[sku].name}",
            count * PRODUCTS[sku].price,
        )
        for sku, count in cart.items()
        if count
    ]
    delivery = data.get("checkout.delivery", {})
    if delivery.get("how") == "parcel":
        lines.append(Line("Parcel", POSTAGE))
    if delivery.get("gift"):
        lines.append(Line("Gift wrapping", WRAPPING))
    return lines
