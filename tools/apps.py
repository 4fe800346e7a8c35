"""Django's description of this app."""

from django.apps import AppConfig


class ToolsConfig(AppConfig):
    """The tools room."""

    name = "tools"
    verbose_name = "Tools"
