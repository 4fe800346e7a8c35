"""Django's description of this app."""

from django.apps import AppConfig


class A2AConfig(AppConfig):
    """The a2a room."""

    name = "a2a"
    verbose_name = "A2A"
