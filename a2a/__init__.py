"""Other agents: our card and server, the registry of remote agents, delegation.

The A2A SDK's top-level package is named `a2a` too: extending the package's path lets both live in one interpreter. Our modules
therefore never take a name of the SDK's (`auth client compat extensions helpers server types utils _base`).
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
