"""The sign-up: a second machine in the same app, and what to do with a password."""

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
    "none": "No letters, please",
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
                message="That is no address like ada@example.com.",
            ),
        ],
        render_kw={"autocomplete": "email"},
    )
    password = PasswordField(
        "Password",
        [Length(min=10, max=200, message="At least %(min)d characters, please.")],
        render_kw={"autocomplete": "new-password"},
    )
    again = PasswordField(
        "The same password again",
        [EqualTo("password", "The two are not the same.")],
        render_kw={"autocomplete": "new-password"},
    )

    def keep_password(self) -> None:
        """Let the password be left empty, because one was given before."""
        self.password.validators = [Optional(), *self.password.validators]


class ProfileForm(Form):
    name = StringField(
        "What shall we call you?",
        [
            InputRequired("Enter a name. Any will do."),
            Length(max=60, message="At most %(max)d characters."),
        ],
        render_kw={"autocomplete": "nickname"},
    )
    letters = SelectField("Letters from the shop", choices=choices(TOPICS))


class ConfirmForm(Form):
    agreed = BooleanField(
        "I agree to the terms", [InputRequired("An account needs your agreement to the terms.")]
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
        # The session's cookie is signed, not secret: whoever has it reads the answers in it. So
        # the password itself is never kept, and the form's own data is not handed over.
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
