"""What a run's events leave open, and what closes it: the verifier's rules seen from the producer."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestration import events as ev


@dataclass(slots=True)
class OpenItems:
    """The items of a run that have started and not ended, in the order of their start."""

    texts: dict[str, None] = field(default_factory=dict)
    tool_calls: dict[str, None] = field(default_factory=dict)
    reasoning_messages: dict[str, None] = field(default_factory=dict)
    reasoning: dict[str, None] = field(default_factory=dict)
    steps: dict[str, None] = field(default_factory=dict)
    started: bool = False
    ended: bool = False

    def apply(self, event: ev.Event) -> None:
        """Take one event into account; events that neither open nor close anything change nothing."""
        match event:
            case ev.TextMessageStart():
                self.texts[event.message_id] = None
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
            *(ev.TextMessageEnd(message_id=item) for item in self.texts),
            *(ev.ToolCallEnd(tool_call_id=item) for item in self.tool_calls),
            *(ev.ReasoningMessageEnd(message_id=item) for item in self.reasoning_messages),
            *(ev.ReasoningEnd(message_id=item) for item in self.reasoning),
            *(ev.StepFinished(step_name=item) for item in reversed(self.steps)),
        ]
