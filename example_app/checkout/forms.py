"""One form for each page. A form knows its fields; rules between pages are the machine's."""

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
        [Optional(), NumberRange(0, 9, "Between 0 and 9, please.")],
        default=0,
        filters=[lambda count: 0 if count is None else count],
        render_kw={"inputmode": "numeric", "min": 0, "max": 9},
    )


def _text(label: str, message: str, autocomplete: str, most: int = 80) -> StringField:
    return StringField(
        label,
        [InputRequired(message), Length(max=most, message="At most %(max)d characters, please.")],
        filters=[lambda text: text.strip() if text else text],
        render_kw={"autocomplete": autocomplete},
    )


class CartForm(Form):
    notebook = _count("How many notebooks")
    pencils = _count("How many boxes of pencils")
    ink = _count("How many bottles of ink")


class DeliveryForm(Form):
    how = RadioField(
        "How would you like to get it?",
        [InputRequired("Choose a parcel, or picking it up.")],
        choices=choices(
            {
                "parcel": f"As a parcel, in two to three days ({catalogue.POSTAGE} €)",
                "pickup": "I pick it up in a shop (free)",
            }
        ),
    )
    gift = BooleanField(f"It is a gift: wrap it ({catalogue.WRAPPING} €)")


class AddressForm(Form):
    name = _text("Name", "Enter a name.", "name")
    street = _text("Street and number", "Enter street and number.", "street-address")
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
        "Which paper?",
        [InputRequired("Choose a paper.")],
        choices=choices(catalogue.PAPERS),
    )
    words = TextAreaField(
        "Words on the card",
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
        "Email, for the bill",
        [
            InputRequired("Enter an email address."),
            Regexp(
                r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
                message="That is no email address, like ada@example.com.",
            ),
        ],
        render_kw={"autocomplete": "email"},
    )


class ReviewForm(Form):
    agreed = BooleanField(
        "I have read the terms and agree to them",
        [InputRequired("An order needs your agreement to the terms.")],
    )
    more = SubmitField("Keep shopping")
