"""The sign-up: a second machine in the same app, and how to handle a password."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template
from flask.typing import ResponseReturnValue
from werkzeug.security import generate_password_hash
from wtforms import BooleanField, EmailField, PasswordField, SelectField, StringField
from wtforms.validators import EqualTo, InputRequired, Length, Optional, Regexp

from .extensions import signup
from .forms import Form, choices

pages = Blueprint("signup", __name__, url_prefix="/signup")

TITLES = {
    "signup.account": "Account",
    "signup.profile": "About you",
    "signup.confirm": "Confirm",
    "signup.welcome": "Welcome",
}
TOPICS = {
    "none": "No newsletter",
    "month": "Once a month",
    "new": "When there is something new",
}


class AccountForm(Form):
    email = EmailField(
        "Email",
        [
            InputRequired("Enter an email address."),
            Regexp(
                r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
                message="Enter an email address, like ada@example.com.",
            ),
        ],
        render_kw={"autocomplete": "email"},
    )
    password = PasswordField(
        "Password",
        [Length(min=10, max=200, message="Enter at least %(min)d characters.")],
        render_kw={"autocomplete": "new-password"},
    )
    again = PasswordField(
        "Repeat the password",
        [EqualTo("password", "The two passwords differ.")],
        render_kw={"autocomplete": "new-password"},
    )

    def keep_password(self) -> None:
        """Make the password optional, because one was given before."""
        self.password.validators = [Optional(), *self.password.validators]


class ProfileForm(Form):
    name = StringField(
        "What should we call you?",
        [
            InputRequired("Enter a name. Any name will do."),
            Length(max=60, message="Enter at most %(max)d characters."),
        ],
        render_kw={"autocomplete": "nickname"},
    )
    letters = SelectField("Newsletter", choices=choices(TOPICS))


class ConfirmForm(Form):
    agreed = BooleanField(
        "I agree to the terms", [InputRequired("Agree to the terms to create an account.")]
    )


@pages.context_processor
def words() -> dict[str, Any]:
    return {"titles": TITLES, "topics": TOPICS}


def page(name: str, form: Form) -> ResponseReturnValue:
    return render_template(f"signup/{name}.html", form=form), 422 if form.is_submitted() else 200


@pages.route("/", methods=["GET", "POST"])
@signup.check()
def account() -> ResponseReturnValue:
    before = signup.answers()
    form = AccountForm(data=before)
    if before:
        form.keep_password()
    if form.validate_on_submit():
        # The session cookie is signed, not encrypted: the visitor can read the answers in it. So
        # pass only the hash, as data=; with it, form= is used for error messages only.
        password = form.password.data
        hashed = generate_password_hash(password) if password else (before or {})["password_hash"]
        answers = {"email": form.email.data, "password_hash": hashed}
        if answer := signup.advance("profile", data=answers, form=form, fast_forward=True):
            return answer
    return page("account", form)


@pages.route("/profile", methods=["GET", "POST"])
@signup.check()
def profile() -> ResponseReturnValue:
    form = ProfileForm(data=signup.answers())
    if form.validate_on_submit() and (
        answer := signup.advance("confirm", form=form, fast_forward=True)
    ):
        return answer
    return page("profile", form)


@pages.route("/confirm", methods=["GET", "POST"])
@signup.check()
def confirm() -> ResponseReturnValue:
    form = ConfirmForm()
    if form.validate_on_submit() and (answer := signup.advance("welcome", form=form)):
        return answer
    return page("confirm", form)


@pages.get("/welcome")
@signup.check()
def welcome() -> ResponseReturnValue:
    return render_template("signup/welcome.html")
