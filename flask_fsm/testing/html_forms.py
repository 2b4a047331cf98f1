"""The forms of an HTML page, and what a browser would send of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

__all__ = ["Control", "FormFields", "forms_in"]

# Types of <input> without a value to send, unless a button is pressed or a file chosen.
UNSENT = frozenset({"reset", "button", "file"})


@dataclass
class Control:
    """An input, a textarea, a select or a button."""

    name: str
    value: str = ""
    id: str = ""
    text: str = ""
    sent: bool = True
    """Whether its value is sent if the user does not change it."""
    action: str | None = None
    """Of a button: where it sends the form, in place of the form's action."""
    method: str | None = None
    options: list[tuple[str, bool]] | None = None
    """Of a select: the values, and whether they are chosen."""
    multiple: bool = False

    def is_called(self, which: str) -> bool:
        """Return whether this is its name, value, id or text."""
        return which in (self.name, self.value, self.id, self.text.strip())

    def values(self) -> list[str]:
        """Return the values that are sent if the user does not change it."""
        if self.options is None:
            return [self.value] if self.sent else []
        chosen = [value for value, selected in self.options if selected]
        if self.multiple:
            return chosen
        return chosen[-1:] or [value for value, _ in self.options[:1]]


@dataclass
class FormFields:
    """One form: its attributes, its controls and its buttons, in the order of the page."""

    id: str = ""
    name: str = ""
    method: str = "GET"
    action: str | None = None
    controls: list[Control] = field(default_factory=list)
    buttons: list[Control] = field(default_factory=list)

    def values(self) -> dict[str, list[str]]:
        """Return what is sent if the user changes nothing, without any button."""
        found: dict[str, list[str]] = {}
        for control in self.controls:
            values = control.values()
            if control.name and values:
                found.setdefault(control.name, []).extend(values)
        return found


def forms_in(html: str) -> list[FormFields]:
    """Return the forms of a page, in its order."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    by_id = {form.id: form for form in reversed(parser.forms) if form.id}
    for owner, control, is_button in parser.elsewhere:
        form = by_id.get(owner)
        if form is not None:
            (form.buttons if is_button else form.controls).append(control)
    return parser.forms


class _Parser(HTMLParser):
    """Collects forms and their controls."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[FormFields] = []
        self.elsewhere: list[tuple[str, Control, bool]] = []
        """Controls that name their form: its id, the control, and whether it is a button."""
        self._form: FormFields | None = None
        self._select: Control | None = None
        self._option: str | None = None
        """The value of the option that is open, if it has a value of its own."""
        self._text: list[str] | None = None
        self._control: Control | None = None

    def _add(self, given: dict[str, str], control: Control, *, button: bool = False) -> None:
        if "disabled" in given:
            return
        if "form" in given:
            self.elsewhere.append((given["form"], control, button))
        elif self._form is not None:
            (self._form.buttons if button else self._form.controls).append(control)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name, id = given.get("name", ""), given.get("id", "")
        if tag == "form":
            method = given.get("method", "get").upper()
            self._form = FormFields(id, name, method, given.get("action"))
            self.forms.append(self._form)
        elif tag == "input":
            self._input(given, name, id)
        elif tag == "button":
            self._control = self._button(given)
            self._text = []
            if given.get("type", "submit").lower() == "submit":
                self._add(given, self._control, button=True)
        elif tag == "textarea":
            self._control = Control(name, id=id)
            self._text = []
            self._add(given, self._control)
        elif tag == "select":
            self._select = Control(name, id=id, options=[], multiple="multiple" in given)
            self._add(given, self._select)
        elif tag == "option" and self._select is not None:
            self._end_option()
            if "disabled" not in given:
                assert self._select.options is not None
                self._select.options.append((given.get("value", ""), "selected" in given))
                self._option = given.get("value")
                self._text = [] if self._option is None else None

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def _input(self, given: dict[str, str], name: str, id: str) -> None:
        kind = given.get("type", "text").lower()
        if kind in ("submit", "image"):
            button = self._button(given)
            button.text = button.value
            self._add(given, button, button=True)
        elif kind in ("checkbox", "radio"):
            value = given.get("value", "on")
            self._add(given, Control(name, value, id, sent="checked" in given))
        elif kind not in UNSENT:
            self._add(given, Control(name, given.get("value", ""), id))

    @staticmethod
    def _button(given: dict[str, str]) -> Control:
        method = given.get("formmethod", "").upper() or None
        name, value, id = (given.get(key, "") for key in ("name", "value", "id"))
        return Control(name, value, id, action=given.get("formaction"), method=method)

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "option":
            self._end_option()
        elif tag == "select":
            self._end_option()
            self._select = None
        elif tag in ("button", "textarea") and self._control is not None:
            text = "".join(self._text or ())
            if tag == "button":
                self._control.text = text
            else:
                self._control.value = text.removeprefix("\n")
            self._control = self._text = None

    def _end_option(self) -> None:
        """Take the text of an option that has no value of its own."""
        if self._select is not None and self._text is not None and self._control is None:
            options = self._select.options
            assert options is not None
            options[-1] = (" ".join("".join(self._text).split()), options[-1][1])
        if self._control is None:
            self._text = None
