"""Where a remote agent's card stands: what was accepted beside what the agent shows now."""

from __future__ import annotations

from a2a.models import RemoteAgent, RemoteAgentHealth
from a2a.remote_cards import digest_of, is_blocking

State = RemoteAgent.State


def settle(agent: RemoteAgent, shown: RemoteAgentHealth | None) -> bool:
    """Bring the row in line with its accepted digest and the card that is shown now; returns whether its state has changed.

    Writes only what changes, because each writing has every process read the agents again.
    """
    accepted = agent.accepted_card
    if not agent.accepted_digest:
        accepted = None
    elif shown is not None and shown.card_digest == agent.accepted_digest and not shown.problem:
        accepted = shown.card
    elif _digest_changed(agent):
        accepted = None
    state = state_of(agent, accepted, shown)
    if (accepted, state) == (agent.accepted_card, agent.state):
        return False
    has_new_state = state != agent.state
    agent.accepted_card, agent.state = accepted, state
    RemoteAgent.objects.filter(pk=agent.pk).update(accepted_card=accepted, state=state)
    return has_new_state


def state_of(agent: RemoteAgent, accepted: object, shown: RemoteAgentHealth | None) -> str:
    """With this card accepted (None: none)."""
    if shown is None or shown.card is None:
        return State.ACCEPTED if isinstance(accepted, dict) and not agent.require_signature else State.UNKNOWN
    if not isinstance(accepted, dict):
        return State.OFFERED
    if agent.require_signature and shown.signature != RemoteAgentHealth.Signature.VALID:
        return State.BLOCKED
    if shown.card_digest == agent.accepted_digest:
        return State.ACCEPTED
    return State.BLOCKED if shown.problem or is_blocking(accepted, shown.card) else State.CHANGED


def _digest_changed(agent: RemoteAgent) -> bool:
    """Whether the card at hand is not the one that is accepted now."""
    return agent.accepted_card is None or digest_of(agent.accepted_card) != agent.accepted_digest
