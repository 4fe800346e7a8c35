"""What `make run` starts in the end: the sample agent, and in this process's place the service.

The sample agent ends with the service, however that ends: the service holds the other end of the agent's standard input.
"""

from __future__ import annotations

import os
import subprocess
import sys


def main() -> None:
    """Start the sample agent beside, then become `manage.py serve`."""
    held, given = os.pipe()
    subprocess.Popen([sys.executable, "-m", "mock_a2a_server", "--until-stdin-closes"], stdin=held)
    os.close(held)
    os.set_inheritable(given, True)
    os.execv(sys.executable, [sys.executable, "manage.py", "serve", *sys.argv[1:]])  # noqa: S606 - ours


if __name__ == "__main__":
    main()
