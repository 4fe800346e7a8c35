"""A document between the pages of an import: signed for the person who gave it, and sent along in their forms.

Nothing is kept here, so any process can go on, and nobody can put another document, or another source, in its place.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Final

from django.core import signing

from audit.redaction import redact_query
from tools.openapi.importing import Source
from tools.openapi.reading import DocumentError, read_document

MAX_HELD: Final = 900_000  # characters; a form as a whole may have DATA_UPLOAD_MAX_MEMORY_SIZE
HELD_SECONDS: Final = 2 * 3600


@dataclass(frozen=True, slots=True)
class HeldDocument:
    """A document that was read, where it came from, and its address for what is relative to it (empty for a file)."""

    document: dict[str, Any]
    source: Source
    url: str = ""

    @classmethod
    def of(cls, data: bytes, *, name: str, url: str = "") -> HeldDocument:
        """Read a document; raises DocumentError."""
        document = read_document(data)
        info = document.get("info")
        said = info if isinstance(info, dict) else {}
        source = Source(
            name=(redact_query(url) if url else name)[:200],
            digest=hashlib.sha256(data).hexdigest(),
            title=str(said.get("title", ""))[:200],
            version=str(said.get("version", ""))[:40],
        )
        return cls(document, source, url)


def hold(held: HeldDocument, person: str) -> str:
    """The document as a form carries it; raises DocumentError when it is too large for that."""
    written = signing.dumps(
        {"document": held.document, "source": asdict(held.source), "url": held.url}, salt=_salt(person), compress=True
    )
    if len(written) > MAX_HELD:
        raise DocumentError("The document is too large, even compressed: take a part of it.")
    return written


def release(written: str, person: str) -> HeldDocument:
    """The document that this person's form carries; raises DocumentError."""
    try:
        found = signing.loads(written, salt=_salt(person), max_age=HELD_SECONDS)
    except signing.BadSignature as error:
        raise DocumentError("The import took too long, or its page is another person's: begin again.") from error
    return HeldDocument(found["document"], Source(**found["source"]), found["url"])


def _salt(person: str) -> str:
    return f"tools.openapi:{person}"
