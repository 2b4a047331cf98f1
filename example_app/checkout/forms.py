"""One form for each page. Forms check single fields; rules across pages belong to the machine."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from wtforms import (
    BooleanField,
    DateField,
    EmailField,
    IntegerField,
    RadioField,
    SelectField,
    StringField,
    SubmitField,
    TextAreaField,
)
from wtforms.validators import (
    InputRequired,
    Length,
    NumberRange,
    Optional,
    Regexp,
    ValidationError,
)

from .. import catalogue
from ..forms import Form, choices


def _count(name: str) -> IntegerField:
    return IntegerField(
        name,
        [Optional(), NumberRange(0, 9, "Enter a number from 0 to 9.")],
        default=0,
        filters=[lambda count: 0 if count is None else count],
        render_kw={"inputmode": "numeric", "min": 0, "max": 9},
    )


def _text(label: str, message: str, autocomplete: str, most: int = 80) -> StringField:
    return StringField(
        label,
        [InputRequired(message), Length(max=most, message="Enter at most %(max)d characters.")],
        filters=[lambda text: text.strip() if text else text],
        render_kw={"autocomplete": autocomplete},
    )


class CartForm(Form):
    notebook = _count("Number of notebooks")
    pencils = _count("Number of boxes of pencils")
    ink = _count("Number of bottles of ink")


class DeliveryForm(Form):
    how = RadioField(
        "How would you like to receive your order?",
        [InputRequired("Choose delivery by parcel or pick-up.")],
        choices=choices(
            {
                "parcel": f"By parcel, in two to three days ({catalogue.POSTAGE} €)",
                "pickup": "Pick-up in a shop (free)",
            }
        ),
    )
    gift = BooleanField(f"This is a gift: please wrap it ({catalogue.WRAPPING} €)")


class AddressForm(Form):
    name = _text("Name", "Enter a name.", "name")
    street = _text("Street and number", "Enter a street and number.", "street-address")
    postcode = StringField(
        "Postcode",
        [
            InputRequired("Enter a postcode."),
            Regexp(r"^\d{4,5}$", message="Enter four or five digits."),
        ],
        filters=[lambda text: text.strip() if text else text],
        render_kw={"autocomplete": "postal-code", "inputmode": "numeric", "maxlength": 5},
    )
    city = _text("Town", "Enter a town.", "address-level2")
    country = SelectField(
        "Country", choices=choices(catalogue.COUNTRIES), render_kw={"autocomplete": "country"}
    )


class PickupForm(Form):
    shop = RadioField(
        "Which shop?",
        [InputRequired("Choose a shop.")],
        choices=choices(
            {key: f"{shop.name}: {shop.hours}" for key, shop in catalogue.SHOPS.items()}
        ),
    )
    day = DateField("Which day?", [InputRequired("Choose a day.")])

    def validate_day(self, field: Any) -> None:
        first = catalogue.today()
        if not first <= field.data <= first + timedelta(days=14):
            raise ValidationError("Choose a day within the next two weeks.")


class WrappingForm(Form):
    paper = RadioField(
        "Which wrapping paper?",
        [InputRequired("Choose a wrapping paper.")],
        choices=choices(catalogue.PAPERS),
    )
    words = TextAreaField(
        "Message on the card",
        [Optional(), Length(max=200, message="The card has room for %(max)d characters.")],
        render_kw={"rows": 4},
    )


class PaymentForm(Form):
    method = RadioField(
        "How would you like to pay?",
        [InputRequired("Choose how to pay.")],
        choices=choices(catalogue.METHODS),
    )
    email = EmailField(
        "Email address for the invoice",
        [
            InputRequired("Enter an email address."),
            Regexp(
                r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
                message="Enter an email address, like ada@example.com.",
            ),
        ],
        render_kw={"autocomplete": "email"},
    )


class ReviewForm(Form):
    agreed = BooleanField(
        "I have read the terms and agree to them",
        [InputRequired("Agree to the terms to place the order.")],
    )
    more = SubmitField("Keep shopping")
