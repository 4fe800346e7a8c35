"""Signing cards with the official SDK: JWS over the canonical form (RFC 8785) of the card."""

from __future__ import annotations

from google.protobuf.json_format import MessageToDict, ParseDict

from a2a.signing_keys import SigningKey
from a2a.tasks import Document
from a2a.types import AgentCard
from a2a.utils.signing import ProtectedHeader, create_agent_card_signer


def signed_card(card: Document, key: SigningKey | None, key_set_url: str) -> Document:
    """The card in the SDK's form, with a signature where there is a key; `key_set_url` is where it can be verified."""
    message = ParseDict(card, AgentCard())
    if key is not None:
        header: ProtectedHeader = {"kid": key.kid, "alg": "ES256", "jku": key_set_url, "typ": "JOSE"}
        message = create_agent_card_signer(key.private, header)(message)  # type: ignore[arg-type]
    document: Document = MessageToDict(message)
    return document
