"""Django's description of the composition root."""

from django.apps import AppConfig


class AgentbackendConfig(AppConfig):
    """The composition root: it joins the rooms and holds what belongs to none of them."""

    name = "agentbackend"
    verbose_name = "Service"
