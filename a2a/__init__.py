"""Other agents: our card and server, the registry of remote agents, delegation.

The A2A SDK's top-level package is named `a2a` too: extending the package's path lets both live in one interpreter. Our modules
therefore never take a name of the SDK's (`auth client compat extensions helpers server types utils _base`).
"""

import os
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

# The SDK's own spans are not recorded: it writes into them what other agents sent. It looks at this when it is imported.
os.environ["OTEL_INSTRUMENTATION_A2A_SDK_ENABLED"] = "false"
