"""Django's description of this app."""

from importlib import import_module

from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate
from django.utils.module_loading import import_string

from tools.python_functions import discover_functions, import_functions


class ToolsConfig(AppConfig):
    """The tools room."""

    name = "tools"
    verbose_name = "Tools"

    def ready(self) -> None:
        """Let the functions register themselves, and bring them into the registry after each `migrate`."""
        discover_functions()
        import_functions(settings.TOOL_MODULES)
        # by name: they need the models, which this module is too early for
        import_module("tools.documents.kinds")
        import_module("tools.documents.guardrails")
        import_module("tools.documents.budgets")
        import_module("tools.stored_credentials")
        post_migrate.connect(import_string("tools.seed.seed_after_migrate"), sender=self, dispatch_uid="tools.seed")
