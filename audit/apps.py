"""Django's description of this app."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """The audit room."""

    name = "audit"
    verbose_name = "Audit"
