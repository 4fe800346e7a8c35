"""The engine: it creates runs, carries them out in tasks of their own, keeps their leases, and lets readers follow them.

One per process. A run's task has an empty context, so that it holds on to nothing of the request that started it, and is reached from
the outside by three things only: cancellation, the loss of its lease, and the shut-down of the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import structlog
from opentelemetry import trace
from opentelemetry.context import Context as TraceContext
from psycopg import Error as DatabaseError

from agentbackend.foundation import metrics
from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from agentbackend.foundation.problems import Problem
from agentbackend.foundation.writer import GroupWriter, LeaseLostError, Unit, WriterStoppedError
from audit import actions
from audit import rows as audit_rows
from audit.actor import SYSTEM, Actor
from audit.entry import AuditEntry, Outcome, Target, entry
from orchestration import history
from orchestration.agents import AgentCatalogue, AgentProfile
from orchestration.answer_screening import screen_resume
from orchestration.approval_audit import decided_entry
from orchestration.approvals import expire_questions, require_usable, without_closed
from orchestration.dialects import Dialect
from orchestration.dispatch import Dispatcher
from orchestration.doorbell import Doorbell
from orchestration.interrupts import Decision, Verdict, decide
from orchestration.journal import RunJournal
from orchestration.lease import Lease
from orchestration.live import LiveRuns
from orchestration.memory import applicable
from orchestration.model_port import ModelPort
from orchestration.model_providers.catalogue import ModelCatalogue
from orchestration.recovery import ABANDONED_TEXT, Claim, claim_run, decided_threads, due_runs, end_abandoned, read_left
from orchestration.resuming import LogState
from orchestration.run_input import RunInput
from orchestration.run_task import RunCancelledError, RunLimits, RunReleasedError, RunTask
from orchestration.runner import Runner
from orchestration.screening import ScreenedInput, screen_input
from orchestration.store import (
    NewRun,
    QuestionsChangedError,
    RunReference,
    StartedRun,
    ThreadView,
    create_run,
    find_run,
    not_going_on,
    release_leases,
    renew_leases,
    request_cancel,
    view_thread,
)
from orchestration.stream import RunFollower
from orchestration.summarising import Summariser
from tools.governance import findings as of_findings
from tools.governance.budget_ledger import forget_old_use, ledger, release_all, reserving_runs
from tools.governance.budgets import OverBudgetError
from tools.governance.guardrails.policy import Finding, Stage
from tools.registry import registry

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("orchestration")

SWEEP_SECONDS = 1.0
_LATE_SECONDS = 1.0
_GIVE_AWAY_SECONDS = 5.0
_MOST_SUMMARIES = 20


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine is told by the settings: seconds, bytes, counts."""

    default_model: str
    summary_model: str = ""
    max_iterations: int = 10
    max_concurrent_runs: int = 500
    max_run_bytes: int = 4 * 1024 * 1024
    max_run_seconds: float = 900.0
    lease_seconds: float = 12.0
    heartbeat_seconds: float = 3.0
    stream_heartbeat_seconds: float = 15.0
    max_crashes: int = 5
    approval_seconds: int = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A caller's wish for a run, with what the request around it carries.

    `is_answered_elsewhere`: its `resume` says what is stored, and was screened when it was; policies of today do not keep it from counting.
    """

    actor: Actor
    run_input: RunInput
    agent_slug: str = ""
    is_answered_elsewhere: bool = False
    standing_key: str | None = None
    idempotency_key: str | None = None
    idempotency_digest: str = ""
    background: bool = False
    request_id: str = ""
    trace_context: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class _Opening:
    """What a run begins with: its input as it may be kept, its thread as it stands, what the client adds and decides, and what
    guardrail policies found."""

    run_input: RunInput
    thread: ThreadView
    merged: history.MergedHistory
    decisions: tuple[Decision, ...]
    screened: ScreenedInput
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Holding:
    """A run that this process holds."""

    runner: Runner
    fence: int
    lease: Lease
    task: asyncio.Task[None] | None = None


class Engine:
    """Runs, from their creation to their last event, as one process sees them."""

    def __init__(
        self, database: Database, writer: GroupWriter, config: EngineConfig, doorbell: Doorbell | None = None
    ) -> None:
        self.database = database
        self.doorbell = doorbell or Doorbell(None)
        self.live = LiveRuns(database, self.doorbell)
        self.live.on_cancel = self.cancel_held
        self.agents = AgentCatalogue(database)
        self.models = ModelCatalogue(database)
        self.config = config
        self._writer = writer
        self.dispatcher: Dispatcher | None = None
        self._model_port: ModelPort | None = None
        self._owner = f"{uuid7().hex[:12]}"
        self._held: dict[UUID, _Holding] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._summarising: set[asyncio.Task[None]] = set()
        self._claiming: set[asyncio.Future[None]] = set()
        self._accepting = False

    # --- life

    def start(self, model_port: ModelPort) -> None:
        """Begin to accept runs, keep leases and sweep; call inside the event loop, with database and writer open."""
        self._model_port = model_port
        self._accepting = True
        self._loops = [
            _detached(self._keep_leases(), "leases"),
            _detached(self._sweep(), "sweep"),
            _detached(self.live.poll_forever(), "poll"),
            _detached(self.live.beat_forever(self.config.stream_heartbeat_seconds), "heartbeat"),
        ]

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new runs, let those going on finish within the grace period, then give the rest away and end all streams."""
        self._accepting = False
        if self._claiming:
            await asyncio.wait(self._claiming, timeout=_GIVE_AWAY_SECONDS)
        tasks = [holding.task for holding in self._held.values() if holding.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_seconds)
        remaining = [(run_id, holding.fence) for run_id, holding in self._held.items()]
        for holding in list(self._held.values()):
            self._stop_run(holding, RunReleasedError("the process shuts down"))
        await asyncio.gather(*(h.task for h in self._held.values() if h.task is not None), return_exceptions=True)
        await self._give_away(remaining)
        self.live.interrupt()
        background = [*self._loops, *self._summarising]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)

    async def _give_away(self, left: Sequence[tuple[UUID, int]]) -> None:
        """End the leases of (run id, fence) and queue the runs; without a database they are claimed when their leases end."""
        if not left or not self.database.is_open:
            return
        try:
            async with asyncio.timeout(_GIVE_AWAY_SECONDS):
                # A barrier: what these runs wrote is committed before another process may claim them.
                await self._writer.commit(Unit())
                await release_leases(self.database, left)
                await self._dispatch([run_id for run_id, _ in left])
        except (DatabaseError, OSError, TimeoutError, WriterStoppedError):
            logger.warning(
                "runs could not be handed over; they are claimed when their leases end", extra={"runs": len(left)}
            )

    @property
    def active_runs(self) -> int:
        """How many runs this process carries out."""
        return len(self._held)

    @property
    def has_room(self) -> bool:
        """Whether another run can be taken up here."""
        return self._accepting and len(self._held) < self.config.max_concurrent_runs

    @property
    def is_accepting(self) -> bool:
        """Whether new runs are taken."""
        return self._accepting

    # --- what callers can ask for

    async def start_run(self, request: RunRequest) -> RunReference:
        """Create a run and begin it; raises Problem when the input, the thread, or the service does not allow it.

        One that is to be done in the background needs no room in this process.
        """
        self._require_room(background=request.background)
        try:
            return await self._start_run(request)
        except Problem as problem:
            if problem.code != "thread_busy" or "run_id" in problem.extra:
                raise
        except QuestionsChangedError:
            logger.info("a question was decided while a run was about to answer it")
        # Another run of the thread was stored in the same moment, or a decision: now it is seen.
        try:
            return await self._start_run(request)
        except QuestionsChangedError:
            raise Problem("thread_busy", "Questions of this thread are being decided at the moment.") from None

    async def _start_run(self, request: RunRequest) -> RunReference:
        agent = await (self.agents.get(request.agent_slug) if request.agent_slug else self.agents.default())
        opening = await self._opening(request, agent)
        given, merged, screened = opening.run_input, opening.merged, opening.screened
        span = tracer.start_span("run", context=request.trace_context, attributes={"agent": agent.slug})
        new = NewRun(
            actor=request.actor,
            agent=agent,
            run_input=given,
            new_messages=screened.messages,
            lease_owner=self._owner,
            lease_seconds=self.config.lease_seconds,
            known_until=merged.known[-1]["id"] if merged.known else "",
            client_agrees=merged.client_agrees and not screened.changed,
            awaits_answer=merged.awaits_answer or bool(opening.decisions),
            refusal=screened.refusal,
            decisions=opening.decisions,
            background=request.background,
            standing_key=request.standing_key,
            idempotency_key=request.idempotency_key,
            idempotency_digest=request.idempotency_digest,
            request_id=request.request_id,
            trace_id=_trace_id(span, request.trace_context),
        )
        # What answers a question goes on with work that was counted when it was begun.
        admission = None if opening.decisions else await ledger.admission(agent.slug, request.actor)
        try:
            started = await create_run(
                self.database,
                new,
                opening.thread.id,
                lambda run_id, thread_id: _opening_entries(new, opening.findings, run_id, thread_id),
                admission,
            )
        except OverBudgetError as over:
            span.end()
            raise self._over_budget(over, request) from over
        except BaseException:
            span.end()
            raise
        if request.background:
            span.end()
            await self._queue(started.id)
            return RunReference(started.id, given.run_id, given.thread_id, "queued", 0)
        holds_budgets = admission is not None and admission.holds
        task = self._first_task(new, started, opening, holds_budgets=holds_budgets)
        if self._accepting:
            self._begin(task, started.fence, Lease(self.config.lease_seconds), span)
        else:  # the shut-down began meanwhile
            span.end()
            await self._give_away([(started.id, started.fence)])
        return RunReference(started.id, given.run_id, given.thread_id, "running", 0)

    async def _opening(self, request: RunRequest, agent: AgentProfile) -> _Opening:
        """What the run begins with, as guardrail policies let it in; raises Problem when the thread does not allow it."""
        given = request.run_input
        screen = await registry.screen(agent.guardrails)
        of_answers: tuple[Finding, ...] = ()
        if not request.is_answered_elsewhere:
            resume, of_answers = await screen_resume(screen, given.resume)
            given = replace(given, resume=resume)
            request = replace(request, run_input=given)
        thread, merged, decisions = await self._read_thread(request, agent)
        screened = await screen_input(screen, merged.new, given.context)
        if screen.asks_models(Stage.USER_INPUT, Stage.TOOL_RESULT):
            # that took a while: look again at the thread; what was judged need not be judged again
            thread, merged, decisions = await self._read_thread(request, agent)
            screened = await screen_input(screen, merged.new, given.context)
        given = replace(given, messages=screened.messages, context=screened.context)
        return _Opening(given, thread, merged, decisions, screened, (*screened.findings, *of_answers))

    def _first_task(self, new: NewRun, started: StartedRun, opening: _Opening, *, holds_budgets: bool) -> RunTask:
        """A run that has just been stored, as its runner takes it up."""
        agent, thread, merged = new.agent, opening.thread, opening.merged
        return RunTask(
            id=started.id,
            thread_id=started.thread_id,
            actor=new.actor,
            agent=agent,
            model=self._model_of(agent),
            run_input=new.run_input,
            known_messages=merged.known,
            new_messages=new.new_messages,
            client_agrees=new.client_agrees,
            awaits_answer=new.awaits_answer,
            thread_state=thread.state,
            request_id=new.request_id,
            trace_id=new.trace_id,
            refusal=new.refusal,
            decisions=new.decisions,
            holds_budgets=holds_budgets,
            memory=applicable(thread.memory, thread.history, merged.known) if agent.summarise_history else None,
        )

    async def _read_thread(
        self, request: RunRequest, agent: AgentProfile
    ) -> tuple[ThreadView, history.MergedHistory, tuple[Decision, ...]]:
        """The thread, what the client adds to it, and what it decides; raises Problem when a run is going on in it."""
        given = request.run_input
        thread = await view_thread(self.database, request.actor, given.thread_id)
        if thread.active_run is not None:
            raise _busy(thread.active_run)
        decisions = await self._decisions(request, thread, agent)
        asked_about = {decision.call.id for decision in decisions}
        return thread, history.merge(thread.history, given.messages, not_the_clients=asked_about), decisions

    async def _decisions(self, request: RunRequest, thread: ThreadView, agent: AgentProfile) -> tuple[Decision, ...]:
        """What becomes of the thread's open questions with this run; raises Problem when what it says of them cannot be."""
        given = request.run_input
        if not given.resume and not thread.open_interrupts:
            return ()
        open_ids = [asked.id for asked in thread.open_interrupts]
        resume = await without_closed(self.database, thread.id, open_ids, given.resume)
        decisions = decide(thread.open_interrupts, resume, by=request.actor, answers_given=bool(given.resume))
        for decision in decisions:
            if decision.is_new:
                field = f"resume[{decision.interrupt_id}].payload.editedArgs"
                await require_usable(
                    decision, request.actor, tools=agent.tools, guardrails=agent.guardrails, field=field
                )
        return tuple(decisions)

    def follow(self, run: RunReference, dialect: Dialect, *, after: int = 0, just_started: bool = False) -> RunFollower:
        """A reader of a run from after event number `after`; `just_started` skips the log of a run that this call began.

        Raises Problem `events_expired` when retention has removed the log.
        """
        if run.events_expired:
            raise Problem("events_expired")
        return RunFollower(
            self.live,
            self.database,
            dialect,
            run_id=run.id,
            public_id=run.public_id,
            after=after,
            log_is_empty=just_started,
        )

    async def cancel(self, actor: Actor, public_id: str) -> bool:
        """Cancel the caller's run wherever it is carried out; returns whether it was still going on."""
        run = await find_run(self.database, actor, public_id)
        asked = await request_cancel(self.database, actor, run.id)
        if not asked or self.cancel_held(run.id):
            return asked
        if run.status == "queued":
            await self.adopt(run.id, wait=False, to_end=True)  # it ends here and now, before any work is done
        self.doorbell.ring_cancel(run.id)
        return True

    def cancel_held(self, run_id: UUID) -> bool:
        """Stop a run that this process carries out, because its cancellation was asked for; False when it does not."""
        holding = self._held.get(run_id)
        if holding is None:
            return False
        self._stop_run(holding, RunCancelledError("cancelled by request"))
        return True

    def record(self, audit_entry: AuditEntry) -> None:
        """Queue an audit entry that belongs to no run's journal."""
        unit = Unit()
        audit_rows.add_to(unit, audit_entry)
        self._writer.submit(unit)

    async def tidy_budgets(self) -> None:
        """Give back what runs hold that have ended without doing so, and forget windows that nobody asks about."""
        holding = await reserving_runs(self.database, older_than_seconds=60.0)
        if ended := await not_going_on(self.database, holding):
            logger.warning("runs have ended without giving back what they held of budgets", extra={"runs": len(ended)})
            await release_all(self.database, ended)
        await forget_old_use(self.database)

    # --- carrying out

    def _over_budget(self, over: OverBudgetError, request: RunRequest) -> Problem:
        """Record that a run does not fit into a budget; returns what its caller is told."""
        metrics.budget_refusals.labels(what=over.rule.what.value).inc()
        self.record(
            entry(
                actions.BUDGET_REFUSED,
                actor=request.actor,
                outcome=Outcome.DENIED,
                target=Target("budget", over.rule.name),
                reason="budget_exceeded",
                policy_version=over.rule.policy_version,
                request_id=request.request_id,
                details={"budget": over.rule.name, "message": str(over), "before": "run"},
            )
        )
        retry_after = str(over.retry_after).encode()
        return Problem("budget_exceeded", str(over), extra=over.as_extra(), headers=((b"retry-after", retry_after),))

    def _require_room(self, *, background: bool) -> None:
        if not self._accepting:
            raise Problem("shutting_down", headers=((b"retry-after", b"2"),))
        if not background and not self.has_room:
            raise Problem("overloaded", headers=((b"retry-after", b"5"),))

    # --- going on with what others left

    async def adopt(self, run_id: UUID, *, wait: bool = True, to_end: bool = False) -> bool:
        """Claim a run that is queued or was left, and carry it out; returns whether it was ours to take.

        Safe to call at any time in any process: the fence decides. `wait`: return when it has ended here. `to_end`: its
        cancellation was asked for, so it needs no room.
        """
        if not self._accepting or not (to_end or self.has_room):
            return False
        claiming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._claiming.add(claiming)
        try:
            asked_at = time.monotonic()
            claim = await claim_run(self.database, run_id, owner=self._owner, lease_seconds=self.config.lease_seconds)
            if claim is None:
                return False
            holding = await self._take_up(claim, Lease(self.config.lease_seconds, asked_at))
        finally:
            self._claiming.discard(claiming)
            claiming.set_result(None)
        if wait and holding is not None and holding.task is not None:
            await asyncio.wait([holding.task])  # a cancelled waiter leaves the run alone
        return True

    async def _take_up(self, claim: Claim, lease: Lease) -> _Holding | None:
        """Go on with a claimed run, or end it when nobody can."""
        if claim.fence > 1:
            metrics.runs_recovered.inc()
        try:
            refusal = await self._why_not(claim)
            if refusal:
                await end_abandoned(self.database, self._writer, self.live, claim, refusal)
                return None
            task = await self._restored(claim)
        except LeaseLostError:
            logger.warning("a run that was left was claimed by somebody else", extra={"run_id": str(claim.id)})
            return None
        except (KeyError, TypeError, ValueError):
            logger.exception("the journal of a run cannot be read", extra={"run_id": str(claim.id)})
            await end_abandoned(self.database, self._writer, self.live, claim)
            return None
        if not self._accepting:  # the shut-down began meanwhile
            await self._give_away([(claim.id, claim.fence)])
            return None
        span = tracer.start_span("run", attributes={"agent": task.agent.slug, "attempt": claim.fence})
        logger.info("a run goes on here", extra={"run_id": str(claim.id), "attempt": claim.fence})
        holding = self._begin(task, claim.fence, lease, span)
        if claim.cancel_requested:
            holding.runner.stop_reason = RunCancelledError("cancelled before it was taken up")
        return holding

    async def _why_not(self, claim: Claim) -> str:
        if not claim.is_readable:
            return ABANDONED_TEXT
        if claim.crashes > self.config.max_crashes:
            return f"{claim.crashes} processes were lost while they carried out this run. It is not tried again."
        if await self.agents.by_id(claim.agent_id) is None:
            return "The agent of this run was switched off before the run could go on."
        return ""

    async def _restored(self, claim: Claim) -> RunTask:
        left = await read_left(self.database, claim)
        agent = await self.agents.by_id(claim.agent_id)
        if agent is None:
            raise ValueError("the agent is gone")
        return RunTask(
            id=claim.id,
            thread_id=claim.thread_id,
            actor=claim.actor,
            agent=agent,
            model=self._model_of(agent),
            run_input=claim.run_input,
            known_messages=left.known_messages,
            new_messages=claim.run_input.messages,
            client_agrees=claim.stored_input["clientAgrees"],
            awaits_answer=claim.stored_input["awaitsAnswer"],
            thread_state=claim.thread_state,
            request_id=claim.request_id,
            trace_id=claim.trace_id,
            refusal=claim.stored_input.get("refusal"),
            decisions=claim.decisions,
            resume=left.point,
            holds_budgets=True,
            memory=left.memory if agent.summarise_history else None,
        )

    async def _queue(self, run_id: UUID) -> None:
        """Have a run done by a worker; without a queue, here."""
        if self.dispatcher is None:
            await self.adopt(run_id, wait=False)
        else:
            await self._dispatch([run_id], background=True)

    async def _dispatch(self, run_ids: Sequence[UUID], *, background: bool = False) -> None:
        """Put runs into the queue. What cannot be queued now is found by a sweep, here or elsewhere."""
        if self.dispatcher is None or not run_ids:
            return
        try:
            await self.dispatcher.defer_claims(run_ids, background=background)
        except (DatabaseError, OSError, TimeoutError):
            logger.warning("runs could not be queued; a sweep will find them", extra={"runs": len(run_ids)})

    def _model_of(self, agent: AgentProfile) -> str:
        return agent.model or self.config.default_model

    def _begin(self, task: RunTask, fence: int, lease: Lease, span: trace.Span) -> _Holding:
        if self._model_port is None:
            raise Problem("unavailable")
        channel = self.live.open_local(task.id, task.run_input.run_id)
        log = task.resume.log if task.resume else LogState()
        journal = RunJournal(
            run_id=task.id, fence=fence, channel=channel, writer=self._writer, next_seq=log.last_seq + 1
        )
        journal.bytes = log.size
        runner = Runner(task, journal, lease, self._model_port, self._limits(task.agent), self.models)
        holding = _Holding(runner, fence, lease)
        self._held[task.id] = holding
        metrics.runs_started.labels(agent=task.agent.slug).inc()
        holding.task = _detached(self._carry_out(holding, span), f"run {task.id}")
        return holding

    def _limits(self, agent: AgentProfile) -> RunLimits:
        iterations = min(agent.max_iterations or self.config.max_iterations, self.config.max_iterations)
        config = self.config
        return RunLimits(iterations, config.max_run_bytes, config.max_run_seconds, config.approval_seconds)

    async def _carry_out(self, holding: _Holding, span: trace.Span) -> None:
        task = holding.runner.task
        structlog.contextvars.bind_contextvars(
            run_id=str(task.id), thread_id=str(task.thread_id), user_id=task.actor.id, request_id=task.request_id,
            trace_id=task.trace_id,
        )  # fmt: skip
        started = time.monotonic()
        try:
            with trace.use_span(span, end_on_exit=True, record_exception=False):
                await holding.runner.execute()
            await self._have_summarised(holding.runner)
        except LeaseLostError:
            metrics.leases_lost.inc()
            logger.warning("a run has another owner; it is left to it")
        except (RunReleasedError, WriterStoppedError):
            logger.info("a run is given away")
        except Exception:
            logger.exception("a run ended without being recorded")
        finally:
            self._held.pop(task.id, None)
            self.live.close_local(task.id)
            metrics.run_seconds.observe(time.monotonic() - started)

    # --- memory

    async def _have_summarised(self, runner: Runner) -> None:
        """Queue the summary of a thread that has outgrown its budget; without a queue it is made here."""
        if not runner.has_outgrown_memory:
            return
        thread_id = runner.task.thread_id
        try:
            if self.dispatcher is not None:
                await self.dispatcher.defer_summary(thread_id)
            elif self._accepting:
                self._summarising.add(task := _detached(self.summarise(thread_id), f"summary {thread_id}"))
                task.add_done_callback(self._summarising.discard)
        except Exception:  # the run has ended well, whatever becomes of this; the thread's next run asks again
            logger.exception("a summary could not be queued")

    async def summarise(self, thread_id: UUID) -> None:
        """Summarise what is due of a thread. Safe to call at any time in any process."""
        if self._model_port is None or not self._accepting:
            return
        config = self.config
        summariser = Summariser(
            self.database,
            self.agents,
            self._model_port,
            models=self.models,
            default_model=config.default_model,
            summary_model=config.summary_model,
        )
        for _ in range(_MOST_SUMMARIES):
            if not await summariser.summarise(thread_id):
                return

    @staticmethod
    def _stop_run(holding: _Holding, reason: BaseException) -> None:
        if holding.runner.stop_reason is None:
            holding.runner.stop_reason = reason
            if holding.task is not None:
                holding.task.cancel()

    # --- leases

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self.config.heartbeat_seconds)
            try:
                await self._renew()
            except (DatabaseError, OSError, TimeoutError):
                logger.warning("leases could not be renewed")
            except Exception:  # this loop must outlive any fault: without it every run here would lose its lease
                logger.exception("leases could not be renewed")

    async def _renew(self) -> None:
        held = [(run_id, holding.fence) for run_id, holding in self._held.items()]
        if not held:
            return
        asked_at = time.monotonic()
        renewed = await renew_leases(self.database, held, self.config.lease_seconds)
        for run_id, fence in held:
            holding = self._held.get(run_id)
            if holding is None or holding.fence != fence:
                continue
            if run_id not in renewed:
                self._stop_run(holding, LeaseLostError(f"run {run_id} has another owner"))
                continue
            holding.lease.renew(asked_at, self.config.lease_seconds)
            if renewed[run_id]:
                self._stop_run(holding, RunCancelledError("cancelled by request"))

    async def _sweep(self) -> None:
        """Look for runs whose owner is gone. When the database was away their owners get a lease's time to come back."""
        delay = self.config.lease_seconds
        while True:
            asked_at = time.monotonic()
            await asyncio.sleep(delay)
            try:
                await self.database.fetch_one("SELECT 1")  # while the database is away this waits, and then answers
                was_away = time.monotonic() - asked_at > delay + _LATE_SECONDS
                if not was_away:
                    await self.sweep_abandoned()
                    await expire_questions(self.database)
                    await self.carry_out_decisions()
                delay = self.config.lease_seconds if was_away else SWEEP_SECONDS
            except (DatabaseError, OSError, TimeoutError):
                logger.warning("could not look for abandoned runs")
                delay = self.config.lease_seconds
            except Exception:  # nor may one run's fault end the care for all others
                logger.exception("could not look for abandoned runs")

    async def sweep_abandoned(self) -> None:
        """Find runs that wait for an owner and have them claimed: through the queue, or here where there is none."""
        due = await due_runs(self.database)
        for run_id in due.cancelled:
            await self.adopt(run_id, wait=False, to_end=True)
        if self.dispatcher is not None:
            await self._dispatch(due.abandoned)
            await self._dispatch(due.queued, background=True)
            return
        for run_id in (*due.abandoned, *due.queued):
            await self.adopt(run_id, wait=False)

    async def carry_out_decisions(self, thread_id: UUID | None = None) -> None:
        """Begin a run, in the background, on each thread (or this one) whose open questions were all decided elsewhere."""
        for thread in await decided_threads(self.database, thread_id):
            given = RunInput(thread.thread_id, str(uuid7()), messages=[], protocol_version="1.0", resume=thread.resume)
            request = RunRequest(
                thread.actor, given, agent_slug=thread.agent, is_answered_elsewhere=True, background=True
            )
            try:
                await self.start_run(request)
            except Problem as problem:  # another process, or the user, was quicker
                logger.info("a decision is not carried out here", extra={"code": problem.code})


def _detached(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task that inherits nothing: a copied request context would keep a thread and a connection with it."""
    return asyncio.get_running_loop().create_task(work, name=name, context=contextvars.Context())


def _busy(active_run: str) -> Problem:
    return Problem("thread_busy", "A run is going on in this thread.", field="threadId", extra={"run_id": active_run})


def _trace_id(span: trace.Span, context: TraceContext | None) -> str:
    found = span.get_span_context()
    if not found.is_valid and context is not None:
        found = trace.get_current_span(context).get_span_context()
    return trace.format_trace_id(found.trace_id) if found.is_valid else ""


def _opening_entries(new: NewRun, found: Sequence[Finding], run_id: UUID, thread_id: UUID) -> list[AuditEntry]:
    common: dict[str, Any] = {
        "actor": new.actor,
        "run_id": run_id,
        "thread_id": thread_id,
        "request_id": new.request_id,
        "trace_id": new.trace_id,
    }
    request_details = {
        "agent": new.agent.slug,
        "messages": new.new_messages,
        "frontend_tools": [t.name for t in new.run_input.tools],
    }
    of_findings.count(found)
    target = Target("run", str(run_id))
    return [
        entry(actions.REQUEST_OPENED, target=Target("thread", str(thread_id)), details=request_details, **common),
        entry(actions.RUN_STARTED, target=target, details={"agent": new.agent.slug}, **common),
        *of_findings.entries(found, target=target, **common),
        *(_decision_entry(decision, common) for decision in new.decisions if decision.is_new),
    ]


def _decision_entry(decision: Decision, common: dict[str, Any]) -> AuditEntry:
    asker: Actor = common["actor"]
    by = SYSTEM if decision.verdict is Verdict.EXPIRED else asker
    return decided_entry(decision, asker_id=asker.id, **{**common, "actor": by})
