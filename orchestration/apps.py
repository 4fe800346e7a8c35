"""Django's description of this app."""

from django.apps import AppConfig
from django.utils.module_loading import import_string

from tools.documents.document import register_kind

_KINDS = (
    "orchestration.model_providers.documents.ModelProviderKind",
    "orchestration.model_providers.documents.ModelPriceKind",
    "orchestration.documents.AgentKind",
)


class OrchestrationConfig(AppConfig):
    """The orchestration room."""

    name = "orchestration"
    verbose_name = "Orchestration"

    def ready(self) -> None:
        """Agents, and the providers and prices of their models, are documents, too."""
        for kind in _KINDS:
            register_kind(import_string(kind)())  # by name: they need the models
        users = import_string("orchestration.model_providers.documents.providers_with_credentials")
        import_string("tools.stored_credentials.add_users_of_credentials")(users)
