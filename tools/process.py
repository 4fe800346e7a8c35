"""What the tools of one process need from its composition root: how to reach others, and where to record calls outside runs.

The composition root calls `configure` once, before the first call. Commands and tests that do not are served from the settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from agentbackend.foundation.outbound import OutboundPolicy
from tools.calls import Recorder


class NotConfiguredError(RuntimeError):
    """Something is asked for that only a process which serves has."""


@dataclass(slots=True)
class _Process:
    policy: OutboundPolicy | None = None
    recorder: Recorder | None = None


_process = _Process()


def configure(*, policy: OutboundPolicy, recorder: Recorder) -> None:
    """Say how this process reaches others, and where it records."""
    _process.policy = policy
    _process.recorder = recorder


def outbound_policy() -> OutboundPolicy:
    """Which addresses tools may reach; raises OutboundPolicyError when the settings cannot be read."""
    if _process.policy is None:
        _process.policy = OutboundPolicy.from_settings(settings)
    return _process.policy


def recorder() -> Recorder:
    """Records calls that belong to no run; raises NotConfiguredError in a process that does not serve."""
    if _process.recorder is None:
        raise NotConfiguredError("this process records no calls outside runs")
    return _process.recorder
