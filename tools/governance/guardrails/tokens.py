"""Secrets that are known by how they begin: API keys of well-known services, keys in assignments, private keys.

A literal beginning is found together with the keywords; here stands what must follow it. Everything is certain within 64
characters; what goes on for longer is taken along as the match's tail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tools.governance.guardrails.matches import Tail


@dataclass(frozen=True, slots=True)
class Token:
    """`literals` are folded beginnings; `certain` must match there, `unfinished` while there is not enough text to tell."""

    category: str
    literals: tuple[str, ...]
    certain: re.Pattern[str]
    unfinished: re.Pattern[str]
    tail: Tail = Tail.TOKEN
    needs: re.Pattern[str] = re.compile("")


def _api_key(literals: str, certain: str, unfinished: str, needs: str = "") -> Token:
    return Token(
        "api_key", tuple(literals.split()), re.compile(certain), re.compile(unfinished), needs=re.compile(needs)
    )


_NAMES: Final = (
    "api key", "api-key", "api_key", "apikey", "api-token", "api_token", "apitoken", "secret_key", "secret-key", "secretkey",
    "client_secret", "client-secret", "clientsecret", "access_token", "access-token", "accesstoken", "auth_token", "auth-token",
    "authtoken", "access_key", "access-key", "accesskey", "secret_access_key",
)  # fmt: skip
_NAME: Final = r"(?i:(?:api|secret|client|access|auth)[ _-]?(?:key|token|secret)|secret_access_key)"
_SIGN: Final = r"""["'`]{0,2} ?(?::=|=>|[:=]| is) ?["'`]?"""
_HALF_SIGN: Final = r"""["'`]{0,2} ?(?::=?|=>?| ?i?s?) ?["'`]?"""

TOKENS: Final = (
    _api_key("sk-", r"sk-[A-Za-z0-9_-]{20}", r"sk-[A-Za-z0-9_-]*", r"[0-9A-Z]"),
    _api_key("akia asia", r"(?:AKIA|ASIA)[A-Z0-9]{16}", r"A[A-Z0-9]*", r"[0-9]"),
    _api_key("ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{30}", r"gh[pousr]_[A-Za-z0-9]*"),
    _api_key("github_pat_", r"github_pat_[A-Za-z0-9_]{30}", r"github_pat_[A-Za-z0-9_]*"),
    _api_key("glpat-", r"glpat-[A-Za-z0-9_-]{20}", r"glpat-[A-Za-z0-9_-]*"),
    _api_key("xoxa- xoxb- xoxe- xoxp- xoxr- xoxs- xapp-", r"x(?:ox[abeprs]|app)-[A-Za-z0-9-]{10}",
             r"x(?:ox[abeprs]|app)-[A-Za-z0-9-]*", r"[0-9]"),
    _api_key("aiza", r"AIza[A-Za-z0-9_-]{30}", r"AIza[A-Za-z0-9_-]*"),
    _api_key("sk_live_ sk_test_ rk_live_ rk_test_", r"[sr]k_(?:live|test)_[A-Za-z0-9]{16}", r"[sr]k_(?:live|test)_[A-Za-z0-9]*"),
    _api_key("hf_ npm_", r"(?:hf|npm)_[A-Za-z0-9]{30}", r"(?:hf|npm)_[A-Za-z0-9]*", r"[0-9A-Z]"),
    # A signed token: its header is JSON in Base64, so it begins with eyJ. One whose header is long is known by its length.
    _api_key("eyj", r"eyJ[A-Za-z0-9_-]{6,54}\.eyJ|eyJ[A-Za-z0-9_-]{57}", r"eyJ[A-Za-z0-9_.-]*"),
    _api_key("bearer", r"(?i:bearer) [A-Za-z0-9._~+/-]{20}", r"(?i:bearer)(?: [A-Za-z0-9._~+/-]*)?", r"[0-9]"),
    Token("api_key", _NAMES, re.compile(rf"{_NAME}{_SIGN}[A-Za-z0-9_.~+/-]{{16}}"),
          re.compile(rf"{_NAME}(?:{_SIGN}[A-Za-z0-9_.~+/-]*|{_HALF_SIGN})"), needs=re.compile(r"[0-9][A-Za-z0-9_.~+/-]{0,15}\Z")),
    Token("private_key", ("-----begin ",), re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY"),
          re.compile(r"-----BEGIN [A-Z0-9 ]*"), tail=Tail.KEY_BLOCK),
)  # fmt: skip

TOKEN_TAIL: Final = re.compile(r"(?:[A-Za-z0-9_+/=~%-]|\.(?=[A-Za-z0-9]))*")
ADDRESS_TAIL: Final = re.compile(r"(?:[\w-]|\.(?=\w))*")
KEY_BLOCK_END: Final = re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY-----")
LONGEST_KEY_BLOCK_END: Final = 64
