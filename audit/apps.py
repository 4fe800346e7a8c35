"""Django's description of this app."""

from django.apps import AppConfig

from audit import sign_ins


class AuditConfig(AppConfig):
    """The audit room."""

    name = "audit"
    verbose_name = "Audit"

    def ready(self) -> None:
        """Begin to listen to sign-ins."""
        sign_ins.connect()
