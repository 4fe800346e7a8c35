"""The caller's Supabase access token, verified again behind the gateway.

Two proofs that must name the same person.
"""

from __future__ import annotations

import re
from typing import Any

import jwt
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from agentbackend.foundation.identifiers import is_user_id
from agentbackend.foundation.problems import Problem
from agentbackend.gateway.headers import DEFAULT_ROLE, Identity, RequestHeaders, usable_role
from agentbackend.gateway.token_keys import TokenKeys

AUDIENCE = "authenticated"
LEEWAY_SECONDS = 5

_BEARER = re.compile(r"Bearer ([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)", re.IGNORECASE)
_LONGEST_TOKEN = 16 * 1024
_REQUIRED = ["exp", "sub", "aud", "role"]


class TokenVerifier:
    """Verifies tokens of one Supabase project.

    `keys` is its key set (ES256, RS256), `secret` the legacy one (HS256; the text's UTF-8 bytes, not base64);
    without one of the two, tokens of that family are refused. `issuer` empty: not checked.
    """

    def __init__(self, *, issuer: str = "", keys: TokenKeys | None = None, secret: str = "") -> None:
        self._issuer = issuer
        self._keys = keys
        self._secret = secret.encode()

    async def verify(self, headers: RequestHeaders, identity: Identity) -> None:
        """Check that the caller's token is valid and names the same person and role as the headers.

        Raises Problem: `unauthenticated` without a token, `invalid_token`, and `token_keys_unavailable` when it
        cannot be verified now.
        """
        claims = await self._claims(_bearer_token(headers))
        if claims.get("role") != AUDIENCE:  # the PostgreSQL role: anon and service keys are tokens as well
            raise _refused("It is not a user's token.")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not is_user_id(subject) or subject != identity.user_id:
            raise _refused("Its subject is not the user of X-Supabase-User-ID.")
        if application_role(claims) != identity.role:
            raise _refused("Its application role is not the one of X-Supabase-User-Role.")

    async def aclose(self) -> None:
        """Close the connections to the key set."""
        if self._keys is not None:
            await self._keys.aclose()

    async def _claims(self, token: str) -> dict[str, Any]:
        algorithm, key = await self._key(token)
        options: dict[str, Any] = {"require": [*_REQUIRED, "iss"] if self._issuer else _REQUIRED}
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=AUDIENCE,
                issuer=self._issuer or None,
                leeway=LEEWAY_SECONDS,
                options=options,  # type: ignore[arg-type]
            )
        except PyJWTError:
            raise _refused("It is expired, forged or not for this service.") from None

    async def _key(self, token: str) -> tuple[str, PyJWK | bytes]:
        """The algorithm and key to verify with, chosen by the algorithm's family before anything is verified.

        So a token that claims HS256 never meets a public key as its secret.
        """
        try:
            header = jwt.get_unverified_header(token)
        except PyJWTError:
            raise _refused("It cannot be read.") from None
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._secret:
            return algorithm, self._secret
        if algorithm in ("ES256", "RS256") and self._keys is not None:
            return algorithm, await self._public_key(header.get("kid"), algorithm)
        raise _refused("Its algorithm is not accepted.")

    async def _public_key(self, kid: object, algorithm: str) -> PyJWK:
        assert self._keys is not None
        key = await self._keys.find(kid) if isinstance(kid, str) else None
        if key is None or key.algorithm_name != algorithm:
            raise _refused("Its key is not known.")
        return key


def application_role(claims: dict[str, Any]) -> str:
    """The role that the organisation gave: from the access token hook, then `app_metadata`.

    Never from `user_metadata`, which users write themselves.
    """
    metadata = claims.get("app_metadata")
    from_metadata = metadata.get("role") if isinstance(metadata, dict) else None
    return usable_role(claims.get("user_role")) or usable_role(from_metadata) or DEFAULT_ROLE


def _bearer_token(headers: RequestHeaders) -> str:
    match = _BEARER.fullmatch(headers.get("authorization"))
    if match is None or len(match[1]) > _LONGEST_TOKEN:
        raise Problem(
            "unauthenticated", "A Supabase access token is required.", headers=((b"www-authenticate", b"Bearer"),)
        )
    return match[1]


def _refused(why: str) -> Problem:
    challenge = (b"www-authenticate", b'Bearer error="invalid_token"')
    return Problem("invalid_token", f"The access token is not accepted. {why}", headers=(challenge,))
