"""A person's answer to a question about a call: make it, do not make it, or make it with other arguments.

Source: AG-UI's recommended payload, `{"approved": bool, "editedArgs"?: object}`, and `reason` beside it. The same answer comes in a
run's `resume`, by POST to the address of approvals, and from the console.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from agentbackend.foundation.problems import Problem

MAX_REASON = 500
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True, slots=True)
class Answer:
    """`edited`: the arguments that a person wants instead; None leaves them as they are. `reason`: for the model and the record."""

    approved: bool
    edited: dict[str, Any] | None = None
    reason: str = ""

    @classmethod
    def of_payload(cls, payload: Any, where: str) -> Answer:
        """Read `{approved, editedArgs?, reason?}`; raises Problem `invalid_input` naming what cannot be read."""
        approved = payload.get("approved") if isinstance(payload, dict) else None
        if not isinstance(approved, bool):
            raise Problem("invalid_input", 'Expected a payload {"approved": true or false}.', field=where)
        return cls.read(approved, payload, where=f"{where}.")

    @classmethod
    def read(cls, approved: bool, document: Mapping[str, Any], *, where: str = "") -> Answer:
        """The answer with what else the document says of it; raises Problem `invalid_input`."""
        edited = document.get("editedArgs")
        if edited is not None and not isinstance(edited, dict):
            raise Problem("invalid_input", "Expected an object: the arguments of the call.", field=f"{where}editedArgs")
        if edited is not None and not approved:
            raise Problem("invalid_input", "Only a call that is approved has arguments.", field=f"{where}editedArgs")
        reason = document.get("reason")
        if reason is not None and (not isinstance(reason, str) or len(reason) > MAX_REASON):
            raise Problem("invalid_input", f"Expected text of at most {MAX_REASON} characters.", field=f"{where}reason")
        return cls(approved, edited, screened(reason or ""))

    @classmethod
    def stored(cls, document: Mapping[str, Any]) -> Answer:
        """The inverse of `as_document`."""
        return cls(bool(document.get("approved")), document.get("editedArgs"), document.get("reason") or "")

    def as_document(self) -> dict[str, Any]:
        """As it is stored with the question."""
        document: dict[str, Any] = {"approved": self.approved}
        if self.edited is not None:
            document["editedArgs"] = self.edited
        if self.reason:
            document["reason"] = self.reason
        return document

    def agrees_with(self, other: Answer) -> bool:
        """Whether both mean the same; the reason is not what they differ by."""
        return (self.approved, self.edited) == (other.approved, other.edited)

    def arguments(self) -> str | None:
        """The edited arguments as JSON text; None when they stay as they are."""
        return None if self.edited is None else orjson.dumps(self.edited).decode()


def screened(text: str) -> str:
    """The text on one line, without control characters and marks that turn the direction of writing, within MAX_REASON."""
    return _CONTROL.sub(" ", text).strip()[:MAX_REASON]
