"""Django's description of this app."""

from django.apps import AppConfig


class OrchestrationConfig(AppConfig):
    """The orchestration room."""

    name = "orchestration"
    verbose_name = "Orchestration"
