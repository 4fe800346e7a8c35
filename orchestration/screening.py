"""Guardrails of a run: what users say before a model is asked, and what models say before it leaves.

`screen_input` looks at what a client brings before any of it is stored. `TurnScreening` stands between the model and the run: only what
it releases is streamed, stored, replayed and recorded. A text that is held back when a process dies was never there; the successor
asks the model again, and begins with a fresh screening.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from a2a.delegation import directory
from orchestration import events as ev
from orchestration.model_port import (
    Finished,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallArguments,
    ToolCallStarted,
)
from orchestration.plans.definition import MAKE_PLAN
from orchestration.run_input import ContextItem
from orchestration.run_record import RunRecord
from orchestration.run_task import AnswerStoppedError
from tools.call_screening import WARNING, withheld_arguments
from tools.calls import ToolCall
from tools.door import MAX_ARGUMENT_DEPTH
from tools.governance import findings as of_findings
from tools.governance.guardrails.policy import Action, Finding, Stage
from tools.governance.screens import Gate, Screen
from tools.registry import registry
from tools.schema_cost import size_of

VIOLATION_EVENT: Final = "GUARDRAIL_VIOLATION"
"""Name of the CUSTOM event that says which policy ended the run, and where."""

_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f\u2026][\"')\]\u201d\u2019]*(?:\s|$)|\n")
_MOST_HELD = 4000  # characters of one sentence
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")  # providers accept nothing else in names of tools
_OUTGOING = (Stage.OUTPUT, Stage.TOOL_ARGUMENTS)


class GuardrailViolationError(AnswerStoppedError):
    """A policy does not let this go on: the run ends with a safe text."""

    def __init__(self, policy: str, version: int, stage: str, category: str, text: str) -> None:
        super().__init__("guardrail", text, policy=policy, version=version)
        self.event = {"policy": policy, "version": version, "stage": stage, "category": category}

    @classmethod
    def of(cls, finding: Finding) -> GuardrailViolationError:
        """What is raised for a finding that blocks."""
        policy = finding.policy
        return cls(policy.name, policy.version, finding.stage.value, finding.category, policy.safe_text)

    def as_document(self) -> dict[str, Any]:
        """As a run's stored input holds it: `GuardrailViolationError(**document)` is the same again."""
        return {**self.event, "text": self.text}

    def announce(self, record: RunRecord) -> None:
        """Tell the run's readers; what was open must be closed by then."""
        record.journal.emit(ev.Custom(name=VIOLATION_EVENT, value=self.event))


# --- what comes in


@dataclass(frozen=True, slots=True)
class ScreenedInput:
    """What a client brings, as it may be stored and shown to a model. `refusal`: no model is to be asked."""

    messages: list[dict[str, Any]]
    context: list[ContextItem]
    findings: tuple[Finding, ...] = ()
    changed: bool = False

    @property
    def refusal(self) -> dict[str, Any] | None:
        """What ends the run before it has asked a model; see `GuardrailViolationError.as_document`."""
        blocked = next((f for f in self.findings if f.stage is Stage.USER_INPUT and _blocks(f)), None)
        return None if blocked is None else GuardrailViolationError.of(blocked).as_document()


async def screen_input(
    screen: Screen, messages: Sequence[dict[str, Any]], context: Sequence[ContextItem]
) -> ScreenedInput:
    """Check new messages and the application's context: users' words, and results of the client's tools."""
    if not screen.concerns(Stage.USER_INPUT, Stage.TOOL_RESULT):
        return ScreenedInput(list(messages), list(context))
    found: list[Finding] = []
    screened = [await _screened_message(screen, message, found) for message in messages]
    items = [
        ContextItem(await _masked(screen, item.description, found), await _masked(screen, item.value, found))
        for item in context
    ]
    changed = screened != list(messages)
    return ScreenedInput(screened, items, tuple(found), changed)


async def _screened_message(screen: Screen, message: dict[str, Any], found: list[Finding]) -> dict[str, Any]:
    stage = Stage.TOOL_RESULT if message["role"] == "tool" else Stage.USER_INPUT
    changed = dict(message)
    for name in ("content", "error"):
        value = message.get(name)
        if isinstance(value, str):
            changed[name] = await _masked(screen, value, found, stage)
        elif isinstance(value, list):
            changed[name] = await _screened_parts(screen, value, found, stage)
    return changed


async def _screened_parts(screen: Screen, parts: list[Any], found: list[Finding], stage: Stage) -> list[Any]:
    """Each part alone, and what they say together: the model reads them as one text, line by line."""
    screened = [await _screened_part(screen, part, found, stage) for part in parts]
    texts = [part for part in screened if _is_text(part)]
    if len(texts) < 2:
        return screened
    across: list[Finding] = []
    together = "\n".join(part["text"] for part in texts)
    masked = await _masked(screen, together, across, stage)
    if masked == together:
        return screened
    found += across
    rest = [part for part in screened if not _is_text(part)]
    return [{"type": "text", "text": masked}, *rest]


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


async def _screened_part(screen: Screen, part: Any, found: list[Finding], stage: Stage) -> Any:
    if not _is_text(part):
        return part
    return {**part, "text": await _masked(screen, part["text"], found, stage)}


async def _masked(screen: Screen, text: str, found: list[Finding], stage: Stage = Stage.USER_INPUT) -> str:
    """The text as it may be kept; where a policy blocks it, none of it."""
    checked = await screen.check(stage, text)
    found += checked.findings
    if checked.blocked is not None:
        return f"[withheld by the guardrail policy {checked.blocked.policy.name}]"
    warned = stage is Stage.TOOL_RESULT and of_findings.has_warned(checked.findings)
    return WARNING + checked.text if warned else checked.text


def refuse_input(record: RunRecord) -> None:
    """End a run whose input a policy blocks: raises GuardrailViolationError once its readers are told."""
    refusal = record.task.refusal
    if refusal is None:
        return
    violation = GuardrailViolationError(**refusal)
    violation.announce(record)
    raise violation


# --- what goes out


@dataclass(slots=True)
class TurnScreening:
    """One model turn on its way out. Texts leave as far as the gates release them, tool calls when they are complete."""

    screen: Screen
    frontend: frozenset[str]
    is_structured: bool = False
    findings: list[Finding] = field(default_factory=list)
    violation: Finding | None = None
    _open: _OpenText | None = None
    _calls: dict[int, _HeldCall] = field(default_factory=dict)
    _called: set[int] = field(default_factory=set)

    @classmethod
    async def of(cls, record: RunRecord, frontend: frozenset[str]) -> TurnScreening | None:
        """The screening of a run's next model turn; None where no policy concerns it."""
        agent = record.task.agent
        screen = await registry.screen(agent.guardrails)
        return cls(screen, frontend, bool(agent.output_schema)) if screen.concerns(*_OUTGOING) else None

    async def released(self, batch: Sequence[ModelEvent]) -> list[ModelEvent]:
        """What of a read from the model may leave now. After a violation nothing does: see `check`."""
        out: list[ModelEvent] = []
        for event in _joined(batch):
            if self.violation is not None:
                break
            await self._take(event, out)
        return out

    def check(self) -> None:
        """Raise GuardrailViolationError when a policy has ended the turn."""
        if self.violation is not None:
            raise GuardrailViolationError.of(self.violation)

    def note(self, record: RunRecord) -> None:
        """Count and record what was found in the turn, masked."""
        note_findings(record, self.findings)
        self.findings = []

    async def _take(self, event: ModelEvent, out: list[ModelEvent]) -> None:
        match event:
            case TextDelta() | ReasoningDelta():
                await self._take_text(event, out)
            case ToolCallStarted():
                await self._end_text(out)
                if event.index not in self._called:
                    self._calls[event.index] = _HeldCall(event)
            case ToolCallArguments():
                held = self._calls.get(event.index)
                if held is not None:  # else it has left already: its end was announced
                    held.pieces.append(event.text)
            case Finished():
                await self._end_text(out)
                await self._release_calls(out)
                if self.violation is None:
                    out.append(await self._screened_end(event))

    async def _screened_end(self, event: Finished) -> Finished:
        """An answer that is to be mended is not shown, but it is stored, and shown to the model again."""
        told = event.rejected
        if told is None:
            return event
        said = await _masked(self.screen, told.said, self.findings, Stage.OUTPUT)
        correction = await _masked(self.screen, told.correction, self.findings, Stage.OUTPUT)
        return replace(event, rejected=replace(told, said=said, correction=correction))

    async def screened_call(self, call: ToolCall) -> ToolCall:
        """A call that the service itself makes up, such as a step of a plan with the results of others in it, as it may be shown, kept
        and made. Raises GuardrailViolationError where it may not even be shown; `note` records what was found."""
        arguments = await self._screened_call(_HeldCall(ToolCallStarted(0, call.id, call.name), [call.arguments]))
        self.check()
        return replace(call, arguments=arguments)

    # --- texts

    async def _take_text(self, event: TextDelta | ReasoningDelta, out: list[ModelEvent]) -> None:
        if self._open is not None and self._open.kind is not type(event):
            await self._end_text(out)
        if isinstance(event, TextDelta):
            await self._release_calls(out)
            event = self._screened_value(event) if self.is_structured else event
        if self.violation is not None:
            return
        if self._open is None:
            self._open = _OpenText(type(event), self.screen.gate())
        passed = self._open.feed(event.text)
        if self.screen.judges_output:
            passed = await self._judged(self._open, passed, whole=False)
        self._let_go(self._open, passed, out)

    def _screened_value(self, event: TextDelta) -> TextDelta:
        """An answer to a schema comes as a whole, and programs read its value: what JSON writes with escapes is checked as they read it."""
        if not self.screen.concerns(Stage.OUTPUT):
            return event
        try:
            value = orjson.loads(event.text)
        except orjson.JSONDecodeError:
            return event
        value, found = self.screen.check_json_now(Stage.OUTPUT, value)
        # what warns is found in the text, unless it is hidden there
        self._add([f for f in found if f.policy.action is not Action.WARN or "\\" in event.text])
        return TextDelta(orjson.dumps(value).decode()) if of_findings.has_redacted(found) else event

    async def _end_text(self, out: list[ModelEvent]) -> None:
        text, self._open = self._open, None
        if text is None or self.violation is not None:
            return
        passed = text.end()
        if self.screen.judges_output:
            passed = await self._judged(text, passed, whole=True)
        self._let_go(text, passed, out)

    def _let_go(self, text: _OpenText, passed: str, out: list[ModelEvent]) -> None:
        self.findings += text.new_findings()
        if self.violation is None:
            self.violation = text.violation
        if passed:
            out.append(text.kind(passed))

    async def _judged(self, text: _OpenText, passed: str, *, whole: bool) -> str:
        """What a moderation model lets pass of what has passed the gate: whole sentences, or the text as a whole."""
        text.held += passed
        # what a gate has stopped for another policy does not leave for want of a judgement
        ready = text.take_held(whole=whole or text.violation is not None, sentences=self.screen.holds_sentences)
        found = await self.screen.judged(Stage.OUTPUT, ready) if ready else ()
        self.findings += found
        self.violation = of_findings.blocking(found)
        return "" if self.violation is not None else ready

    # --- tool calls

    async def _release_calls(self, out: list[ModelEvent]) -> None:
        """Calls leave complete, or not at all."""
        for index, held in sorted(self._calls.items()):
            if self.violation is not None:
                break
            name = await self._screened_name(held.started.name)
            arguments = await self._screened_call(held)
            if self.violation is None:
                out += [replace(held.started, name=name), ToolCallArguments(index, arguments)]
        self._called |= self._calls.keys()
        self._calls = {}

    async def _screened_name(self, name: str) -> str:
        """A tool's name as it may be shown: one that somebody has given stays, one that the model has made up is a text of its."""
        checked = await self.screen.check(Stage.OUTPUT, name)
        self._add(checked.findings)
        if checked.text == name or name in self.frontend or name in directory.peers or name == MAKE_PLAN:
            return name
        is_given = name in (await registry.snapshot()).tools
        return name if is_given else _NO_NAME.sub("_", checked.text)

    async def _screened_call(self, held: _HeldCall) -> str:
        """The arguments as they may be shown, kept and used; the door checks them once more."""
        text = "".join(held.pieces)
        for stage in _OUTGOING:
            if self.violation is None and self.screen.concerns(stage):
                text = await self._screened_arguments(stage, text, held.started.name)
        return text

    async def _screened_arguments(self, stage: Stage, text: str, tool: str) -> str:
        try:
            value = orjson.loads(text) if text.strip() else {}
            is_readable = size_of(value)[1] <= MAX_ARGUMENT_DEPTH
        except orjson.JSONDecodeError:
            value, is_readable = None, False
        if not is_readable:  # the door will refuse it
            checked = await self.screen.check(stage, text)
            written, found = checked.text, checked.findings
        else:
            value, found = await self.screen.check_json(stage, value)
            written = orjson.dumps(value).decode() if of_findings.has_redacted(found) else text
        blocked = of_findings.blocking(found)
        if blocked is None or stage is Stage.OUTPUT or tool in self.frontend:
            self._add(found)
            return written
        self.findings += found
        return withheld_arguments(blocked)  # the door refuses it, and says why

    def _add(self, found: Sequence[Finding]) -> None:
        self.findings += found
        if self.violation is None:
            self.violation = of_findings.blocking(found)


@dataclass(slots=True)
class _HeldCall:
    started: ToolCallStarted
    pieces: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _OpenText:
    """A message, or the reasoning, that the model is writing. `held` has passed the gate and waits to be judged."""

    kind: type[TextDelta] | type[ReasoningDelta]
    gate: Gate | None
    held: str = ""
    _reported: int = 0

    @property
    def violation(self) -> Finding | None:
        return None if self.gate is None else self.gate.violation

    def feed(self, text: str) -> str:
        text = ev.clean_text(text)
        return text if self.gate is None else self.gate.feed(text)

    def end(self) -> str:
        return "" if self.gate is None else self.gate.end()

    def new_findings(self) -> list[Finding]:
        found = [] if self.gate is None else list(self.gate.findings[self._reported :])
        self._reported += len(found)
        return found

    def take_held(self, *, whole: bool, sentences: bool) -> str:
        """What can be judged now."""
        end = len(self.held) if whole else 0
        if not whole and sentences:
            end = max((found.end() for found in _SENTENCE_END.finditer(self.held)), default=0)
            if not end and len(self.held) > _MOST_HELD:
                end = len(self.held)
        ready, self.held = self.held[:end], self.held[end:]
        return ready


def note_findings(record: RunRecord, found: Sequence[Finding]) -> None:
    """Count what policies found in a run, and record it with what happened."""
    if not found:
        return
    of_findings.count(found)
    task = record.task
    common = {
        "actor": task.actor,
        "target": record.target,
        "run_id": task.id,
        "thread_id": task.thread_id,
        "request_id": task.request_id,
        "trace_id": task.trace_id,
    }
    for audit_entry in of_findings.entries(found, **common):
        record.journal.audit(audit_entry)


def _joined(batch: Sequence[ModelEvent]) -> Iterator[ModelEvent]:
    """The events, neighbouring pieces of text as one: a burst costs one check."""
    pieces: list[str] = []
    kind: type[TextDelta] | type[ReasoningDelta] = TextDelta
    for event in batch:
        if isinstance(event, TextDelta | ReasoningDelta):
            if pieces and type(event) is not kind:
                yield kind("".join(pieces))
                pieces = []
            kind = type(event)
            pieces.append(event.text)
            continue
        if pieces:
            yield kind("".join(pieces))
            pieces = []
        yield event
    if pieces:
        yield kind("".join(pieces))


def _blocks(finding: Finding) -> bool:
    return of_findings.blocking((finding,)) is not None
