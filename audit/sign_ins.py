"""Console sign-ins, failed ones and sign-outs in the audit trail.

Django offers signals here and nothing else: its login view is not ours. A sign-in that cannot be recorded
fails. Failed attempts are refusals of strangers and counted as such.
"""

from __future__ import annotations

import threading
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db import transaction

from audit import actions
from audit.console_actor import console_actor, remote_address, request_id
from audit.entry import AuditEntry
from audit.recording import insert, record
from audit.refusals import RefusalCounter

_lock = threading.Lock()  # views run in threads; held while counting, never while writing
_ready: list[AuditEntry] = []
_failed = RefusalCounter(_ready.append, action=actions.CONSOLE_SIGN_IN_FAILED)


def connect() -> None:
    """Listen to Django's signals; called once, when the app is ready."""
    user_logged_in.connect(record_sign_in, dispatch_uid="audit.sign_in")
    user_login_failed.connect(record_failed_sign_in, dispatch_uid="audit.failed_sign_in")
    user_logged_out.connect(record_sign_out, dispatch_uid="audit.sign_out")


def record_sign_in(request: Any, user: Any, **_: Any) -> None:
    """Somebody signed in to the console."""
    with transaction.atomic():
        record(actions.CONSOLE_SIGNED_IN, actor=console_actor(user), request_id=request_id(request))


def record_sign_out(request: Any, user: Any, **_: Any) -> None:
    """Somebody signed out; Django also says so when nobody was signed in."""
    if user is None:
        return
    with transaction.atomic():
        record(actions.CONSOLE_SIGNED_OUT, actor=console_actor(user), request_id=request_id(request))


def record_failed_sign_in(request: Any = None, **_: Any) -> None:
    """Somebody could not sign in: counted by address. The name they tried may be a password typed too
    early, so it is left out.
    """
    with _lock:
        _failed.refused(remote_address(request), "wrong_credentials", request_id(request))
    _write_ready()


def flush(*, everything: bool = False) -> None:
    """Record the counts of minutes that are over, or, at the end of the process, all; blocks on the database."""
    with _lock:
        if everything:
            _failed.flush_all()
        else:
            _failed.flush()
    _write_ready()


async def flush_async(*, everything: bool = False) -> None:
    """`flush`, from an event loop: the service calls it each minute, and with `everything` when it stops."""
    await sync_to_async(flush)(everything=everything)


def _write_ready() -> None:
    with _lock:
        entries, _ready[:] = list(_ready), []
    if not entries:
        return
    with transaction.atomic():
        for made in entries:
            insert(made)
