"""Django's description of this app."""

from django.apps import AppConfig
from django.utils.module_loading import import_string

from tools.documents.document import register_kind


class A2AConfig(AppConfig):
    """The a2a room."""

    name = "a2a"
    verbose_name = "A2A"

    def ready(self) -> None:
        """Remote agents are documents, too."""
        register_kind(import_string("a2a.documents.RemoteAgentKind")())  # by name: it needs the models
