"""What a run's events leave open, and what closes it: the verifier's rules seen from the producer."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestration import events as ev


@dataclass(slots=True)
class OpenItems:
    """The items of a run that have started and not ended, in the order of their start."""

    texts: dict[str, str | ev.UnsetType] = field(default_factory=dict)
    """Message ids, each with the subagent that says it."""
    tool_calls: dict[str, None] = field(default_factory=dict)
    reasoning_messages: dict[str, None] = field(default_factory=dict)
    reasoning: dict[str, None] = field(default_factory=dict)
    subagents: dict[str, str] = field(default_factory=dict)
    """Their ids, each with the agent's name."""
    steps: dict[str, None] = field(default_factory=dict)
    started: bool = False
    ended: bool = False

    def apply(self, event: ev.Event) -> None:
        """Take one event into account; events that neither open nor close anything change nothing."""
        match event:
            case ev.TextMessageStart():
                self.texts[event.message_id] = event.subagent_run_id
            case ev.TextMessageEnd():
                self.texts.pop(event.message_id, None)
            case ev.ToolCallStart():
                self.tool_calls[event.tool_call_id] = None
            case ev.ToolCallEnd():
                self.tool_calls.pop(event.tool_call_id, None)
            case ev.ReasoningStart():
                self.reasoning[event.message_id] = None
            case ev.ReasoningEnd():
                self.reasoning.pop(event.message_id, None)
            case ev.ReasoningMessageStart():
                self.reasoning_messages[event.message_id] = None
            case ev.ReasoningMessageEnd():
                self.reasoning_messages.pop(event.message_id, None)
            case ev.SubagentStarted():
                self.subagents[event.subagent_run_id] = event.name
            case ev.SubagentFinished() | ev.SubagentError():
                self.subagents.pop(event.subagent_run_id, None)
            case ev.StepStarted():
                self.steps[event.step_name] = None
            case ev.StepFinished():
                self.steps.pop(event.step_name, None)
            case ev.RunStarted():
                self.started = True
            case ev.RunFinished() | ev.RunError():
                self.ended = True

    def closing_events(self) -> list[ev.Event]:
        """The END events that must precede RUN_FINISHED, inner items first."""
        return [
            *(ev.TextMessageEnd(message_id=item, subagent_run_id=owner) for item, owner in self.texts.items()),
            *(ev.ToolCallEnd(tool_call_id=item) for item in self.tool_calls),
            *(ev.ReasoningMessageEnd(message_id=item) for item in self.reasoning_messages),
            *(ev.ReasoningEnd(message_id=item) for item in self.reasoning),
            *(_broken_off(item, name) for item, name in self.subagents.items()),
            *(ev.StepFinished(step_name=item) for item in reversed(self.steps)),
        ]


def _broken_off(subagent: str, name: str) -> ev.Event:
    message = "The task was broken off."
    return ev.SubagentError(subagent_run_id=subagent, message=message, code="cancelled", metadata={"agent": name})
