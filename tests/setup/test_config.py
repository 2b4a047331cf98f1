"""The config: an error at init_app names the key that is missing or invalid."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from flask_fsm import ConfigError, FlaskFSM, FSMError, Machine
from flask_fsm.config import PREFIX, Config

from ..apps import SECRET


def init(**config: Any) -> Flask:
    app = Flask("configured")
    app.config.update({"SECRET_KEY": SECRET, **config})
    FlaskFSM(app, Machine("m", [("a", "b")]))
    return app


@pytest.mark.parametrize("key", [None, "", b""])
def test_a_missing_secret_key_is_told_at_start_up(key: object) -> None:
    """Without SECRET_KEY nothing can be signed, and init_app says how to make one."""
    with pytest.raises(ConfigError, match="SECRET_KEY") as caught:
        init(SECRET_KEY=key)
    assert "secrets" in str(caught.value)
    assert isinstance(caught.value, FSMError)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("FSM_STORE", "FSM_STORE_URL"),
        ("FSM_CACHE_SIZ", "FSM_CACHE_SIZE"),
        ("FSM_LIFE_TIME", "FSM_FLOW_LIFETIME"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_one(key: str, hint: str) -> None:
    """A mistyped key is not ignored."""
    with pytest.raises(ConfigError) as caught:
        init(**{key: 1})
    assert f"{key} " in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("FSM_STORE_URL", ""),
        ("FSM_STORE_URL", None),
        ("FSM_STORE_URL", 7),
        ("FSM_STORE_URL", "carrier-pigeon://"),
        ("FSM_HEARTBEAT", float("inf")),
        ("FSM_HEARTBEAT", float("nan")),
        ("FSM_HEARTBEAT", timedelta(days=30)),
        ("FSM_SEND_TIMEOUT", float("inf")),
        ("FSM_REPLAY_TTL", float("inf")),
        ("FSM_PRESENCE_TTL", 20),
        ("FSM_URL_PREFIX", "/<prefix>"),
        ("FSM_ALLOWED_ORIGINS", ["*"]),
        ("FSM_ALLOWED_ORIGINS", ["app.example"]),
        ("FSM_ALLOWED_ORIGINS", ["https://app.example/"]),
        ("FSM_ALLOWED_ORIGINS", ["https://App.example"]),
        ("FSM_ALLOWED_ORIGINS", ["https://app.example:443"]),
        ("FSM_ALLOWED_ORIGINS", ["http://app.example:80"]),
        ("FSM_ALLOWED_ORIGINS", ["https://*.app.example"]),
        ("FSM_ALLOWED_ORIGINS", ["null"]),
        ("FSM_ALLOWED_ORIGINS", ["https://b\u00fccher.example"]),
        ("FSM_CACHE_SIZE", "many"),
        ("FSM_CACHE_SIZE", 0),
        ("FSM_CACHE_SIZE", -1),
        ("FSM_CACHE_SIZE", 1.5),
        ("FSM_CACHE_SIZE", True),
        ("FSM_CACHE_SIZE", None),
        ("FSM_FLOW_LIFETIME", "a week"),
        ("FSM_FLOW_LIFETIME", 0),
        ("FSM_FLOW_LIFETIME", -5),
        ("FSM_FLOW_LIFETIME", timedelta(0)),
        ("FSM_FLOW_LIFETIME", True),
        ("FSM_FLOW_LIFETIME", float("nan")),
        ("FSM_HISTORY_LIMIT", "10"),
        ("FSM_HISTORY_LIMIT", -1),
        ("FSM_REQUIRE_TOKEN", "yes"),
        ("FSM_REQUIRE_TOKEN", 1),
        ("FSM_REQUIRE_TOKEN", None),
        ("FSM_REDACT_FIELDS", "password"),
        ("FSM_REDACT_FIELDS", [1]),
        ("FSM_REDACT_FIELDS", None),
        ("FSM_URL_PREFIX", 5),
        ("FSM_LOCK_TIMEOUT", "long"),
        ("FSM_LOCK_TIMEOUT", 0),
        ("FSM_FLASH", "no"),
        ("FSM_TOKEN_FIELD", ""),
        ("FSM_MAX_SNAPSHOT_SIZE", "64k"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_by_its_key(key: str, value: object) -> None:
    """The error names the key, and no app is made that would do something else."""
    with pytest.raises(ConfigError) as caught:
        init(**{key: value})
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("FSM_URL_PREFIX", "fsm", "it must be a path that begins with '/' and has no parameters"),
        ("FSM_TOKEN_FIELD", "", "it must be a non-empty string"),
        ("FSM_CACHE_SIZE", "many", "it must be a whole number above 0"),
        ("FSM_HISTORY_LIMIT", 0, "it must be a whole number above 0, or None"),
        ("FSM_LOCK_TIMEOUT", -1, "it must be a number of seconds above 0"),
        ("FSM_FLASH", 1, "it must be True or False"),
        ("FSM_REDACT_FIELDS", "pin", "it must be a list of strings"),
        (
            "FSM_BUS_URL",
            7,
            "it must be a URL, or an object that the app already has, such as a client of Redis",
        ),
        ("FSM_MAX_SNAPSHOT_SIZE", "64k", "it must be a whole number of bytes above 0"),
        ("FSM_HEARTBEAT", 0.0001, "it must be at least 0.001 seconds"),
        ("FSM_FLOW_LIFETIME", timedelta(0), "it must be a number of seconds above 0, or None"),
        ("FSM_LIVE_WORKERS", 1, "it must be at least 2"),
        ("FSM_HEARTBEAT", 1e9, "it must be at most 604,800 seconds"),
    ],
)
def test_the_error_says_what_a_value_is(key: str, value: object, text: str) -> None:
    """In words, and not by the names of Python's types."""
    with pytest.raises(ConfigError) as caught:
        init(**{key: value})
    assert str(caught.value) == f"The config key {key} can't be {value!r}: {text}."


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("FSM_STORE_URL", "session"),
        ("FSM_STORE_URL", "memory://"),
        ("FSM_HEARTBEAT", 30),
        ("FSM_ALLOWED_ORIGINS", ["https://app.example", "http://[::1]:8080", "http://localhost"]),
        ("FSM_ALLOWED_ORIGINS", ["capacitor://localhost", "https://xn--bcher-kva.example"]),
        ("FSM_CACHE_SIZE", 1),
        ("FSM_FLOW_LIFETIME", None),
        ("FSM_FLOW_LIFETIME", 60),
        ("FSM_FLOW_LIFETIME", 0.5),
        ("FSM_FLOW_LIFETIME", timedelta(days=1)),
        ("FSM_HISTORY_LIMIT", None),
        ("FSM_HISTORY_LIMIT", 1),
        ("FSM_REQUIRE_TOKEN", True),
        ("FSM_REDACT_FIELDS", ["*secret*"]),
        ("FSM_REDACT_FIELDS", ()),
        ("FSM_FLASH", False),
        ("FSM_TOKEN_FIELD", "t"),
        ("FSM_TO_FIELD", "next"),
        ("FSM_LOCK_TIMEOUT", 1),
        ("FSM_MAX_SNAPSHOT_SIZE", 10),
    ],
)
def test_values_of_the_right_kind_are_taken(key: str, value: object) -> None:
    """Lists, numbers, timedeltas and None are read where they make sense."""
    assert init(**{key: value}).extensions["fsm"] is not None


def test_each_default_could_be_given_by_an_app() -> None:
    """The defaults pass the checks, and come out as they are."""
    defaults = Config()
    given = {PREFIX + each.name.upper(): getattr(defaults, each.name) for each in fields(Config)}
    assert Config.read(given) == defaults


def test_other_keys_of_the_config_are_left_alone() -> None:
    """Only keys that begin with FSM_ are ours."""
    assert init(MY_FSM_THING=1, FSMX=2).extensions["fsm"] is not None


def test_a_failed_init_leaves_the_app_without_extension() -> None:
    """After an error of the config, the app can be initialised with a better one."""
    app = Flask("twice")
    app.config.update(SECRET_KEY=SECRET, FSM_CACHE_SIZE="many")
    fsm = FlaskFSM(Machine("m", [("a", "b")]))
    with pytest.raises(ConfigError):
        fsm.init_app(app)
    assert "fsm" not in app.extensions
    app.config["FSM_CACHE_SIZE"] = 5
    fsm.init_app(app)
    assert "fsm" in app.extensions
