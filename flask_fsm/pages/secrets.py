"""Secrets: which fields of a form hold one, by name, by type in WTForms, or by value."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Final

__all__ = ["PARTS", "WHOLE_NAMES", "WORDS", "SecretValues", "is_secret_name", "password_names"]


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Names are compared without digits, case and accents.
WHOLE_NAMES: Final = _listed(
    "card karte carte carta tarjeta cartao kaart karta cleapi cleprivee clave parola parole"
)
"""Names that are secret as a whole: `card` and `clave_2`, not `card_color` or `palabra_clave`."""
WORDS: Final = frozenset(
    _listed("""
    pass passw pwd pword psw pswd pw userpass loginpass mypass newpass oldpass adminpass
    rootpass dbpass confpass passconf passe mdp senha senhas novasenha senhaatual
    haslo heslo geslo losen sifre parool passord kodeord
    pin pincode pinkode puk tan mtan otp totp hotp mfa cvc cvv cvn csc iban ssn svnr
    secret secrets geheim geheimnis geheimzahl secreto segreto segredo token tokens bearer jwt
    credential credentials mnemonic пин пинкод
    """)
)
"""Words of names that are secret: `new_pass`, `userPIN`, `cvv2`."""
PARTS: Final = _listed("""
    clavesecreta claveacceso clavedeacceso nuevaclave clavenueva clavepersonal paroladordine
    parolasegreta nuovaparola
    password passwd passphrase passcode passkey passwort kennwort losungswort motdepasse
    palavrapasse contrasena contrasenya contrasinal pasahitza wachtwoord adgangskode losenord
    salasana jelszo lozink slaptazod парол лозинк συνθηματικ
    apikey accesskey secretkey privatekey signingkey encryptionkey apischluessel apischlussel
    clientsecret sharedsecret appsecret secretanswer accesstoken authtoken refreshtoken
    onetimecode verificationcode einmalcode
    creditcard debitcard cardn kreditkarte kartennummer cartebancaire cartebleue cartedecredit
    cartecredit numerodecarte numerocarte tarjetadecredito tarjetacredito numerodetarjeta
    numerotarjeta cartadicredito cartacredito numerocarta cartaodecredito cartaocredito
    numerodocartao numerocartao creditkaart kaartnummer numerkarty
    securitycode sicherheitscode kartenpruefnummer kartenprufnummer pruefziffer prufziffer
    codedesecurite codesecurite cryptogramme codigodeseguridad codigoseguridad codicedisicurezza
    codicesicurezza codigodeseguranca codigoseguranca beveiligingscode kodbezpieczenstwa
    socialsecurity sozialversicherungsnummer securitesociale seguridadsocial codicefiscale
""")
"""Parts of names, without what separates their words: `credit-card-no`, `neuesPasswort`."""

_ANY_PART: Final = re.compile("|".join(PARTS))
_BETWEEN_WORDS: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\W\d_]+")
# Letters with strokes, which have no accent that Unicode would separate.
_STROKES: Final = str.maketrans("łøđðıŁØĐÐ", "lodd" + "iLODD")
# What WTForms puts between the names of a form and its fields, and the number of an entry.
_OF_FORM: Final = r"(?:^|.*[-;:/.])(?:{})(?:[-_;:/.]\d+)*"

# A repetition with up to this many typos is a secret too: one for each four characters.
MAX_TYPOS: Final = 3
# Work for one form, in pairs of compared characters; about 50 ms.
MAX_COMPARED: Final = 250_000


def is_secret_name(name: str) -> bool:
    """Return whether a field of this name holds a password, a card number, a key or the like."""
    if not name.isascii():
        split = unicodedata.normalize("NFKD", name.translate(_STROKES))
        name = "".join(letter for letter in split if not unicodedata.combining(letter))
    words = [word.casefold() for word in _BETWEEN_WORDS.split(name) if word]
    joined = "".join(words)
    return (
        not WORDS.isdisjoint(words) or joined in WHOLE_NAMES or _ANY_PART.search(joined) is not None
    )


def password_names() -> re.Pattern[str]:
    """Return a pattern of the names of the password fields of all WTForms forms of the process.

    Only its view knows to which form a submission belongs, and does not run if that is refused.
    """
    names = set(_password_fields()) if "wtforms" in sys.modules else ()
    return re.compile(
        _OF_FORM.format("|".join(map(re.escape, names)) if names else r"(?!)"), re.DOTALL
    )


def _password_fields() -> Iterator[str]:
    from wtforms.form import BaseForm

    waiting, seen = [BaseForm], set[type]()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        for owner in kind.__mro__:  # fields may be those of a class that is not a form itself
            if owner not in seen:
                seen.add(owner)
                for name, field in vars(owner).items():
                    if _is_password_field(field):
                        yield field.name or name


def _is_password_field(field: Any) -> bool:
    """Return whether an attribute of a form is a password field, or a list of such fields."""
    from wtforms import PasswordField
    from wtforms.fields.core import UnboundField

    if not isinstance(field, UnboundField):
        return False
    kind, options = field.field_class, field.kwargs
    widget = options.get("widget") or getattr(kind, "widget", None)
    return (
        (isinstance(kind, type) and issubclass(kind, PasswordField))
        or getattr(widget, "input_type", None) == "password"
        or (options.get("render_kw") or {}).get("type") == "password"
        or any(_is_password_field(entry) for entry in (*field.args, options.get("unbound_field")))
    )


class SecretValues:
    """The values of the secret fields of one form.

    `text in values` also recognises one that was typed again with a typo, under any name.
    """

    __slots__ = ("_budget", "_folded", "_values")

    def __init__(self, values: Iterable[str]) -> None:
        self._values = set(values) - {""}
        self._folded = {_fold(value) for value in self._values} - {""}
        self._budget = MAX_COMPARED

    def __contains__(self, text: str) -> bool:
        if text in self._values:
            return True
        folded = _fold(text) if self._folded else ""
        return any(self._is_similar(folded, secret) for secret in self._folded)

    def _is_similar(self, text: str, secret: str) -> bool:
        typos = min(len(secret) // 4, MAX_TYPOS)
        if abs(len(text) - len(secret)) > typos or len(set(text) ^ set(secret)) > 2 * typos:
            return False
        self._budget -= len(text) * len(secret)
        # Without time left to compare, a text is left out.
        return self._budget < 0 or _has_typos(text, secret, typos)


def _fold(text: str) -> str:
    return text.strip().casefold()


def _has_typos(text: str, secret: str, limit: int) -> bool:
    """Return whether at most `limit` typos lead from one text to the other.

    A typo is a letter more, less, or another one, or two that have changed places (the optimal
    string alignment distance).
    """
    before: list[int] = []
    above = list(range(len(secret) + 1))
    for row, letter in enumerate(text, 1):
        here = [row]
        for column, other in enumerate(secret, 1):
            typos = min(above[column] + 1, here[-1] + 1, above[column - 1] + (letter != other))
            swapped = row > 1 < column and letter == secret[column - 2] and text[row - 2] == other
            here.append(min(typos, before[column - 2] + 1) if swapped else typos)
        if min(here) > limit and min(above) > limit:
            return False
        before, above = above, here
    return above[-1] <= limit
