"""What a browser may load on our pages (Content-Security-Policy): nothing but our own files, and no code inside a page.

The console is the exception: its theme evaluates expressions in attributes (Alpine) and sets styles from scripts.
"""

from __future__ import annotations

from typing import Any

from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from csp.middleware import CSPMiddleware, PolicyParts

CONSOLE_PREFIX = "/admin/"

STRICT_POLICY: dict[str, Any] = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

CONSOLE_CHANGES: dict[str, list[str]] = {
    "script-src": [SELF, UNSAFE_EVAL],
    "style-src": [SELF, UNSAFE_INLINE],
}


class ContentPolicyMiddleware(CSPMiddleware):  # type: ignore[misc]
    """The strict policy everywhere, with the console's changes under its prefix."""

    def get_policy_parts(self, request: Any, response: Any, report_only: bool = False) -> PolicyParts:
        """The parts that django-csp makes the header of."""
        parts = super().get_policy_parts(request, response, report_only)
        if request.path_info.startswith(CONSOLE_PREFIX):
            parts.replace = {**CONSOLE_CHANGES, **(parts.replace or {})}
        return parts
