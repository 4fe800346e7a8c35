"""Security schemes as credentials of tools: a suggested name for each, and where its value goes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.credentials import name_problem
from tools.openapi.references import BrokenReferenceError, References

_NOT_IN_NAMES = re.compile(r"[^A-Z0-9]+")
_WORD_ENDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Scheme:
    """A security scheme: how its credential is placed, or the reason why it cannot be; `note` is for who imports."""

    name: str
    suggested: str
    placement: dict[str, str]
    problem: str = ""
    note: str = ""


def schemes_of(document: Mapping[str, Any], references: References) -> dict[str, Scheme]:
    """All security schemes of the document, by name."""
    components = document.get("components")
    described = components.get("securitySchemes") if isinstance(components, dict) else None
    if not isinstance(described, dict):
        return {}
    title = str(_mapping(document.get("info")).get("title", ""))
    return {name: _scheme(name, entry, title, references) for name, entry in described.items()}


def placed_credentials(
    requirements: Any, schemes: Mapping[str, Scheme], names: Mapping[str, str]
) -> tuple[list[dict[str, str]], str]:
    """The credentials of an operation as the handler's settings, and the problem when none of its alternatives can be met.

    `requirements`: the operation's `security`; `names`: which credential stands for which scheme, where it is not the suggested one.
    """
    alternatives = (
        [entry for entry in requirements if isinstance(entry, dict)] if isinstance(requirements, list) else []
    )
    problem = ""
    for alternative in sorted(alternatives, key=lambda entry: not entry):  # without credentials only as the last resort
        chosen = [schemes.get(name) for name in alternative]
        bad = next(
            (scheme.problem if scheme else "it is not described" for scheme in chosen if not scheme or scheme.problem),
            "",
        )
        if not bad:
            usable = [scheme for scheme in chosen if scheme is not None]
            return [{"name": names.get(scheme.name) or scheme.suggested, **scheme.placement} for scheme in usable], ""
        problem = problem or f"It needs a security scheme that cannot be used: {bad}."
    return [], problem


def _scheme(name: str, entry: Any, title: str, references: References) -> Scheme:
    suggested = _suggested(title, name)
    try:
        described = _mapping(references.resolved(entry))
    except BrokenReferenceError as error:
        return Scheme(name, suggested, {}, problem=str(error))
    kind, place = described.get("type"), described.get("in")
    if kind == "apiKey" and place in ("header", "query"):
        return Scheme(name, suggested, {"placement": str(place), "parameter": str(described.get("name", ""))})
    if kind == "http":
        return _http_scheme(name, suggested, str(described.get("scheme", "")).lower())
    if kind in ("oauth2", "openIdConnect"):
        note = "an access token, which has to be put in again when it expires"
        return Scheme(name, suggested, {"placement": "bearer"}, note=note)
    what = f"{kind} in {place}" if kind == "apiKey" else str(kind)
    return Scheme(name, suggested, {}, problem=f"{name} ({what[:64]})")


def _http_scheme(name: str, suggested: str, scheme: str) -> Scheme:
    if scheme == "basic":
        return Scheme(name, suggested, {"placement": "basic"}, note="user:password")
    if scheme == "bearer":
        return Scheme(name, suggested, {"placement": "bearer"})
    return Scheme(name, suggested, {}, problem=f"{name} (HTTP {scheme[:64]})")


def _suggested(title: str, name: str) -> str:
    """A credential's name like `PETSTORE_API_KEY`."""
    words = _NOT_IN_NAMES.sub("_", _WORD_ENDS.sub("_", f"{title[:60]} {name[:40]}").upper()).strip("_")
    found = (words if words[:1].isalpha() else f"API_{words}").strip("_")
    return found if not name_problem(found) else f"API_{found}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
