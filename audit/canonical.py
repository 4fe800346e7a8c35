"""Canonical bytes: what is hashed, and later stands in the tree.

The envelope is a flat object with fixed ASCII names, string values and one integer. For this domain sorted
keys without white space are RFC 8785 (a test compares with an implementation of all of it); nested or
fractional values are refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from audit.redaction import JsonValue


def envelope_bytes(fields: Mapping[str, str | int]) -> bytes:
    """The envelope in canonical JSON."""
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def payload_bytes(details: Mapping[str, JsonValue]) -> bytes:
    """Details in JSON with sorted keys; the stored bytes are what the commitment covers, whoever reads
    them.
    """
    return orjson.dumps(details, option=orjson.OPT_SORT_KEYS)
