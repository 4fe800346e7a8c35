"""What the agent says of itself. Plain JSON, so that whoever registers it need not import the SDK."""

from __future__ import annotations

from typing import Any, Final

CARD_PATH: Final = "/.well-known/agent-card.json"
RPC_PATH: Final = "/rpc"

_SKILLS: Final = (
    ("quick", "Answer at once", "Says a few words about whatever it is asked.", "Tell me about tea."),
    ("slow", "Answer slowly", "Thinks aloud, word by word, for a few seconds.", "slow: Tell me about tea."),
    ("order", "Take an order", "Asks how many before it takes an order.", "order: tea"),
    ("fail", "Fail", "Cannot do it, and says why.", "fail: Tell me about tea."),
)


def card(base_url: str) -> dict[str, Any]:
    """The card of the agent that is reached at this address."""
    modes = ["text/plain"]
    return {
        "name": "Sample agent",
        "description": "A sample agent for trying things out. It knows nothing, and says so at different speeds.",
        "version": "1.0.0",
        "supportedInterfaces": [
            {"url": f"{base_url}{RPC_PATH}", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"},
            {"url": base_url, "protocolBinding": "HTTP+JSON", "protocolVersion": "1.0"},
        ],
        "capabilities": {"streaming": True, "pushNotifications": False},
        "defaultInputModes": modes,
        "defaultOutputModes": modes,
        "skills": [
            {"id": name, "name": title, "description": about, "tags": ["sample"], "examples": [example]}
            for name, title, about, example in _SKILLS
        ],
    }
