"""The audit room: who did what, when, with which outcome, kept for good.

`record` writes inside the transaction of what it records (console, commands). Runs and streams make an
entry with `audit.entry.entry` and hand it to the writer with `audit.rows.add_to`.
"""

from audit.recording import AuditOutsideTransactionError, record

__all__ = ["AuditOutsideTransactionError", "record"]
