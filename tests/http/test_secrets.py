"""Passwords, card numbers and keys: never kept by `form=`, and never shown again."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask import Flask, request
from flask_wtf import FlaskForm
from wtforms import FieldList, Form, FormField, PasswordField, StringField
from wtforms.widgets import PasswordInput

from flask_fsm import FlaskFSM, Machine
from flask_fsm.pages.secrets import SecretValues, is_secret_name

from ..apps import SECRET, Visitor, token_in


class PhraseField(PasswordField):
    """A password field of the app's own."""


class Mixin:
    stille = PasswordField()


class Nested(Form):
    merkwort = PasswordField()
    street = StringField()


class AccountForm(Mixin, FlaskForm):
    # Its names are in no other test: a process hides the names of all password fields it knows.
    email = StringField()
    losung = PasswordField()
    repeated_phrase = PhraseField()
    renamed = PasswordField(name="parole-de-passe")
    drawn_phrase = StringField(widget=PasswordInput())
    hidden_phrase = StringField(render_kw={"type": "password"})
    inner = FormField(Nested)
    several_phrases = FieldList(PasswordField(), min_entries=2)


SENT = {
    "email": "ada@example.com",
    "losung": "value-one",
    "repeated_phrase": "second-thing",
    "parole-de-passe": "drittes",
    "drawn_phrase": "quattro!",
    "hidden_phrase": "fuenftes-x",
    "inner-merkwort": "sestina-6",
    "inner-street": "Elm 5",
    "several_phrases-0": "settima",
    "several_phrases-1": "oktober-8",
    "stille": "neunauge",
}
SHOWN = {"email", "inner-street"}


def account_site() -> tuple[Visitor, FlaskFSM]:
    app = Flask("secrets")
    app.config.update(SECRET_KEY=SECRET, TESTING=True, WTF_CSRF_ENABLED=False)
    fsm = FlaskFSM(app, Machine("m", [("account", "next"), ("next", "end")]))

    @app.route("/account", methods=["GET", "POST"])
    @fsm.check()
    def account() -> Any:
        form = AccountForm()
        if form.validate_on_submit() and (answer := fsm.advance(form=form)):
            return answer
        return str(fsm.token())

    @app.route("/next", methods=["GET", "POST"])
    @fsm.check()
    def next() -> Any:
        return fsm.advance() if request.method == "POST" else fsm.flow.data["account"]

    app.add_url_rule("/end", "end", fsm.check()(lambda: "end"))
    return Visitor(app), fsm


def test_a_form_keeps_no_password_whatever_its_field_is_called() -> None:
    visitor, _ = account_site()
    token = token_in(visitor.open("account").text)
    visitor.client.post("/account", data={**SENT, "fsm_token": token})
    assert visitor.open("next").json == {
        "email": "ada@example.com",
        "inner": {"street": "Elm 5"},
        "several_phrases": [],
    }


def test_no_password_field_is_shown_on_a_conflict_page_whatever_its_name() -> None:
    """The view, and with it the form, does not run; its class tells which fields these are."""
    visitor, _ = account_site()
    token = token_in(visitor.open("account").text)
    visitor.client.post("/account", data={**SENT, "fsm_token": token})
    late = visitor.client.post("/account", data={**SENT, "more": "1", "fsm_token": token})
    assert late.status_code == 409
    for name, value in SENT.items():
        assert (value in late.text) == (name in SHOWN), name


def test_the_receipt_of_a_form_does_not_tell_which_password_was_in_it() -> None:
    """What is kept to recognise a double click differs for the same form: nobody can try it out."""
    receipts = set()
    for _ in range(2):
        visitor, fsm = account_site()
        token = token_in(visitor.open("account").text)
        data = {**SENT, "fsm_token": token}
        assert visitor.client.post("/account", data=data).location == "/next"
        assert visitor.client.post("/account", data=data).location == "/next"
        with visitor.client:
            visitor.open("next")
            receipts.add(fsm.flow.snapshot.receipt.digest)
    assert len(receipts) == 2


SECRET_NAMES = """
pass1 pass_1 Pass2 userPass passwort Passwort2 neuesPasswort kennwort cvv2 CVV2Code cvc_1 apikey
api_key apiKey APIKey api-key X-API-Key x.api.key userPIN2 pin1 pinCode user[password] account-pw
newpass oldpass userpass mot_de_passe motDePasse mdp contraseña contrasena clave senha novaSenha
palavra-passe parola wachtwoord haslo hasło nowe_hasło heslo lösenord losenord adgangskode passord
salasana jelszó lozinka şifre пароль новыйПароль пинкод otp totp2 tan3 geheimzahl secret
clientSecret client_secret private-key accessToken access_token2 card card_1 cardNumber card-no
creditCard2 kreditkarte kartennummer numero_de_carte tarjetaDeCredito cartaoCredito iban2 IBAN
codeDeSecurite codigo_de_seguridad Prüfziffer pruefziffer securityCode passwd loginpasswd passw0rd
passphrase segreto segredo cle_api geheim ssn 1password clave2 Parola parole
claveSecreta nueva_clave parola_d_ordine
"""
PLAIN_NAMES = """
street name email passport passport_no passenger passengers compass bypass secretary spinach
address2 shipping card_color cardinal postcard wildcards chosen_hat frozen_ham hasLocation keyboard
key monkey keyword tanning titan hopping opinion pinboard compass_order article_apis senator
clavier tokenizer note1 note2 city zip phone amount date quantity desenho parolees новости
имя straße größe nom prénom palabra_clave puntos-clave parole_chiave parola_preferita
"""


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_a_field_of_this_name_is_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN_NAMES.split())
def test_a_field_of_this_name_is_not_secret(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize("name", ["pass1", "passwort", "cvv2", "apikey", "contraseña", "пароль"])
def test_a_conflict_page_does_not_show_a_secret_by_its_name(name: str) -> None:
    visitor, _ = account_site()
    token = token_in(visitor.open("account").text)
    visitor.client.post("/account", data={**SENT, "fsm_token": token})
    sent = {name: "s3cr3t-v4lue", "note": "shown-1", "fsm_token": token}
    late = visitor.client.post("/account", data=sent)
    assert "s3cr3t-v4lue" not in late.text
    assert "shown-1" in late.text


TYPOS = {
    "hunter2-hunter2": [
        "hunter2-hunter2",
        "hunter2-hunter",
        "hunter2-hunter22",
        "hunter2-hutner2",
        "Hunter2-Hunter2",
        "HUNTER2-HUNTER2",
        "hunter2_hunter2",
        "hunter3-hunter2 ",
        "xhunter2-hunter2",
    ],
    "geheim": ["gehiem", "geheim1", "gehem", "Geheim", "geheum"],
    "1234": ["1235", "123", "12344", "2134"],
}


@pytest.mark.parametrize("password", TYPOS)
def test_a_password_that_was_repeated_with_a_typo_is_not_shown(password: str) -> None:
    """Also where the field for the repetition has an innocent name."""
    visitor, _ = account_site()
    token = token_in(visitor.open("account").text)
    visitor.client.post("/account", data={**SENT, "fsm_token": token})
    for value in TYPOS[password]:
        sent = {"password": password, "repetition": value, "note": "gehweg", "fsm_token": token}
        late = visitor.client.post("/account", data=sent)
        assert late.status_code == 409
        assert f"<dd>{value.strip()}" not in late.text
        assert f'value="{value}"' not in late.text
        assert "gehweg" in late.text


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("hunter2-hunter2", "hunter"),
        ("hunter2-hunter2", "a hunter lives here"),
        ("geheim", "gehweg"),
        ("1234", "1300"),
        ("123", "124"),
        ("x", "y"),
        ("", "anything"),
        ("Vienna-1010", "Vienna"),
    ],
)
def test_what_only_resembles_a_password_is_shown(secret: str, text: str) -> None:
    assert text not in SecretValues([secret])


def test_comparing_with_passwords_takes_no_more_time_than_is_allowed() -> None:
    """However many fields come with whatever values: what is left over counts as a secret."""
    secret = "ab" * 200
    values = SecretValues([secret, "ba" * 200])
    near = ["ba" * 100 + "ab" * 50 + "ba" * 50 + str(number % 10) for number in range(20_000)]
    began = time.process_time()
    for text in near:
        text in values  # noqa: B015
    assert time.process_time() - began < 2
    assert near[-1] in values
