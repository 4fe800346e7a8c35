"""A console user's own password: Django's page, with a record of the change in the transaction that makes it."""

from __future__ import annotations

from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from audit import actions
from audit.admin_recording import record_console
from audit.entry import Target
from audit.redaction import REDACTED


def change_own_password(request: HttpRequest) -> HttpResponse:
    """Django's page for signed-in staff; a change that was made is recorded, a refused one is not."""
    with transaction.atomic():
        response: HttpResponse = admin.site.password_change(request)
        if request.method == "POST" and response.status_code == 302:
            changes = {"password": {"before": REDACTED, "after": REDACTED}}
            record_console(
                request,
                actions.CONSOLE_CHANGED,
                target=Target("auth.user", str(request.user.pk)),
                details={"name": request.user.get_username(), "changes": changes},
            )
    return response
