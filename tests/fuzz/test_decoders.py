"""The decoders under texts that Hypothesis makes up and, when one fails, makes small.

FSM_FUZZ_INPUTS says how many; `make fuzz` sets it to 200,000.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_fsm.errors import InvalidToken
from flask_fsm.security.tokens import TokenContent, Tokens

from .fuzz_snapshot import PIECES, feed, valid_texts

VALID = valid_texts()
TOKENS = Tokens(["an old key", "a new key"])
GOOD = [
    TOKENS.sign(TokenContent("f" * 22 + run, rev, "n" * 12, state))
    for run, rev, state in [("", 0, "cart"), ("~3", 17, "shop.address"), ("", 10**14, "é.|漢")]
]
many = settings(
    max_examples=int(os.environ.get("FSM_FUZZ_INPUTS", "500")),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

any_text = st.text(st.characters(exclude_categories=()), max_size=200)


def spliced(texts: list[str], pieces: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Texts of which a part was exchanged for a piece of something else."""
    return st.builds(
        lambda text, start, length, piece: (
            text[: start % (len(text) + 1)] + piece + text[start % (len(text) + 1) + length :]
        ),
        st.sampled_from(texts),
        st.integers(0, 400),
        st.integers(0, 9),
        pieces,
    )


fields = st.sampled_from([field for text in VALID for field in text.split("|")] + PIECES)


@many
@given(
    any_text
    | spliced(VALID, any_text | fields)
    | st.lists(fields | st.text(max_size=9), max_size=30).map("|".join)
)
def test_a_hostile_snapshot_is_a_snapshot_error(text: str) -> None:
    """Whatever the text, the decoder returns a snapshot that works, or raises SnapshotError."""
    feed(text)


@many
@given(any_text | spliced(GOOD, st.text(max_size=9) | st.sampled_from(GOOD)))
def test_only_a_signed_text_is_a_token(text: str) -> None:
    """A text that was not signed as it stands is InvalidToken, one that was is read."""
    try:
        TOKENS.read(text)
    except InvalidToken:
        assert text not in GOOD
    else:
        assert text in GOOD
