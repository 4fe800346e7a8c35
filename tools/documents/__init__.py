"""The registry's things as documents: a kind, a name, and a plain `spec` of JSON values.

One form for all ways of changing something: the console's pages, changes that wait for a second person (`tools.changes`), and
configuration as code. `tools.documents.kinds` says how each kind is read, checked and written; rooms above add their own.
"""

from tools.documents.document import (
    Document,
    DocumentKind,
    Spec,
    UnknownKindError,
    differences,
    fingerprint,
    kind_named,
    register_kind,
    registered_kinds,
)

__all__ = [
    "Document",
    "DocumentKind",
    "Spec",
    "UnknownKindError",
    "differences",
    "fingerprint",
    "kind_named",
    "register_kind",
    "registered_kinds",
]
