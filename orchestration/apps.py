"""Django's description of this app."""

from django.apps import AppConfig
from django.utils.module_loading import import_string

from tools.documents.document import register_kind


class OrchestrationConfig(AppConfig):
    """The orchestration room."""

    name = "orchestration"
    verbose_name = "Orchestration"

    def ready(self) -> None:
        """Agents are documents, too."""
        register_kind(import_string("orchestration.documents.AgentKind")())  # by name: it needs the models
