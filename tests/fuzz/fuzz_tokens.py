"""Fuzz the reader of tokens: `python -m tests.fuzz.fuzz_tokens --inputs 200000`.

Whatever the text, only a TokenContent or InvalidToken may come out, and a TokenContent only of
a text that was signed as it stands.
"""

from __future__ import annotations

import argparse
import base64
import random
import secrets
import sys
from collections.abc import Callable

from flask_fsm.errors import InvalidToken
from flask_fsm.security.tokens import TokenContent, Tokens, new_nonce

KEYS = ["an old key", "a new key"]
# What tokens are made of, what they are not, and what is longer in bytes than in characters.
ALPHABET = "abcXYZ0189-_.~|= \t\n\r\x00\x7f\x85\xa0éßıſ٣１漢😀\u2028\ufeff\ud800\udfff"  # noqa: RUF001


def signed(chance: random.Random, tokens: Tokens) -> str:
    """A token that is good."""
    flow = secrets.token_urlsafe(16) + chance.choice(["", "", "~1", "~123456789"])
    state = chance.choice(["a", "shop.cart", "é 漢", "with.dots.", "~", "😀" * 50])
    return tokens.sign(TokenContent(flow, chance.choice([0, 1, 10**14]), new_nonce(), state))


def changed(chance: random.Random, text: str) -> str:
    """The text with something cut, put in, replaced, swapped or doubled."""
    place, other = sorted((chance.randrange(len(text) + 1), chance.randrange(len(text) + 1)))
    match chance.randrange(7):
        case 0:
            return text[:place] + chance.choice(ALPHABET) + text[place + 1 :]
        case 1:
            return text[:place] + text[other:]
        case 2:
            return (
                text[:place] + chance.choice(ALPHABET) * chance.choice([1, 2, 5_000]) + text[place:]
            )
        case 3:
            return text[:other] + text[place:]
        case 4:
            flipped = chr(ord(text[place]) ^ 1 << chance.randrange(7)) if place < len(text) else "."
            return text[:place] + flipped + text[place + 1 :]
        case 5:
            return text.swapcase() if chance.random() < 0.1 else text + chance.choice(ALPHABET)
        case _:
            # The last character alone: not all of its bits count.
            return text[:-1] + chance.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef0123456789-_=")


def mixed(chance: random.Random, one: str, two: str) -> str:
    """The content of one token under the signature of another."""
    return one.rpartition(".")[0] + "." + two.rpartition(".")[2]


def invented(chance: random.Random) -> str:
    """A text out of nothing, some of it in the shape of a token."""
    if chance.random() < 0.5:
        return "".join(chance.choices(ALPHABET, k=chance.choice([0, 1, 3, 30, 300])))
    flow = base64.urlsafe_b64encode(chance.randbytes(16)).decode().rstrip("=")
    nonce = base64.urlsafe_b64encode(chance.randbytes(9)).decode()
    signature = base64.urlsafe_b64encode(chance.randbytes(chance.choice([0, 20, 32, 33]))).decode()
    return f"{flow}.{chance.randrange(99)}.{nonce}.cart.{signature}"


def fuzz(inputs: int, seed: int) -> dict[str, int]:
    """Read `inputs` texts; raise AssertionError at the first that is read wrongly."""
    chance = random.Random(seed)
    tokens = Tokens(KEYS)
    old, foreign = Tokens(KEYS[:1]), Tokens(["another key"])
    good = [signed(chance, tokens) for _ in range(40)] + [signed(chance, old) for _ in range(10)]
    known = set(good)
    alien = [signed(chance, foreign) for _ in range(10)]
    kinds: list[Callable[[], str]] = [
        lambda: changed(chance, chance.choice(good)),
        lambda: changed(chance, changed(chance, chance.choice(good))),
        lambda: mixed(chance, *chance.sample(good, 2)),
        lambda: chance.choice(good),
        lambda: chance.choice(alien),
        lambda: invented(chance),
    ]
    counts = {"read": 0, "refused": 0}
    for _ in range(inputs):
        text = chance.choice(kinds)()
        try:
            content = tokens.read(text)
        except InvalidToken:
            assert text not in known, f"a good token was refused: {text!r}"
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{error!r} came out of {text!r}") from error
        else:
            assert text in known, f"a token that was not signed was read: {text!r} as {content}"
            counts["read"] += 1
    assert counts["read"] < inputs, "no text was refused: what was fuzzed?"
    return counts


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"tokens: {options.inputs} inputs, seed {seed}", flush=True)
    counts = fuzz(options.inputs, seed)
    print(f"tokens: {counts['read']} read, {counts['refused']} refused, nothing else came out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
