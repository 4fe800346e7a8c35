"""Agents, threads, turns, runs, steps and the event log as tables.

Runs are written by the group writer and by short SQL of `orchestration.store`, never by the ORM: the models are here for
migrations, for the console's reading, and as the description of what is stored.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7
from audit.actor import DEFAULT_TENANT, Actor
from orchestration.model_providers.rows import ModelPrice as ModelPrice
from orchestration.model_providers.rows import ModelProvider as ModelProvider
from tools.governance.approvals import Decider


class Agent(models.Model):
    """What answers: instructions, a model, limits, and the tools it may offer to its caller."""

    class Prompting(models.TextChoices):
        """How the model is told of its tools and says what it wants."""

        NATIVE = "native", "The provider's tool calling"
        PROMPTED_JSON = "prompted_json", "JSON in the text, for models without tool calling"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.SlugField(max_length=64, unique=True, help_text="The agent's id in addresses and in A2A.")
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True, db_default="")
    instructions = models.TextField(blank=True, db_default="", help_text="The system prompt's own part.")
    model = models.CharField(max_length=200, blank=True, db_default="", help_text="Empty: the service's OPENAI_MODEL.")
    temperature = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0.0), MaxValueValidator(2.0)],
        help_text="Empty: the model's own.",
    )
    fallback_models = ArrayField(
        models.CharField(max_length=200), blank=True, default=list, db_default=[],
        help_text="Models that are tried in this order when the first one fails before it has said anything.",
    )  # fmt: skip
    prompting = models.CharField(
        max_length=16, choices=Prompting.choices, default=Prompting.NATIVE, db_default=Prompting.NATIVE,
        help_text="How the model is told of its tools and calls them.",
    )  # fmt: skip
    planning = models.BooleanField(
        default=True, db_default=True, help_text="It may make plans of several steps, which the service carries out."
    )
    output_schema = models.JSONField(
        null=True, blank=True, help_text="JSON Schema of its answers. Empty: it answers in prose."
    )
    guardrails = ArrayField(
        models.CharField(max_length=64), blank=True, default=list, db_default=[],
        help_text="Names of guardrail policies that hold for it, beside those that hold everywhere.",
    )  # fmt: skip
    max_output_tokens = models.PositiveIntegerField(null=True, blank=True)
    max_iterations = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)],
        help_text="Model turns in one run; MAX_ITERATIONS_PER_TURN is the ceiling.",
    )  # fmt: skip
    history_token_budget = models.PositiveIntegerField(
        db_default=12000,
        default=12000,
        help_text="How much of the thread's history the model is shown, in tokens (estimated).",
    )
    summarise_history = models.BooleanField(
        default=True, db_default=True, help_text="What no longer fits the budget is summarised; off: it is left out."
    )
    tools = ArrayField(
        models.CharField(max_length=64), blank=True, default=list, db_default=[],
        help_text="Names of the tools it may offer. Empty: every tool that the caller may use.",
    )  # fmt: skip
    event_retention_days = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)],
        help_text="Days to keep the event log of an ended run; its messages stay. Empty: the service's EVENT_RETENTION_DAYS.",
    )  # fmt: skip
    exposed_over_a2a = models.BooleanField(
        "exposed over A2A", default=False, db_default=False,
        help_text="Other agents may find it and give it tasks over A2A.",
    )  # fmt: skip
    skills = models.JSONField(
        blank=True, default=dict, db_default={},
        help_text="What its A2A card says that it can do: by id, objects with name, description, and perhaps tags and examples.",
    )  # fmt: skip
    enabled = models.BooleanField(default=True, db_default=True)
    is_default = models.BooleanField(default=False, db_default=False, help_text="Answers on /ag-ui/events.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        ordering = ("name",)
        permissions = [("use_playground", "Can talk to agents in the playground")]
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"], condition=models.Q(is_default=True), name="one_default_agent"
            )
        ]

    def __str__(self) -> str:
        return self.name


class OwnedQuerySet(models.QuerySet):  # type: ignore[type-arg]
    """Rows that belong to a caller. Every read for a caller begins with `visible_to`, so a stranger gets 404."""

    def visible_to(self, actor: Actor) -> OwnedQuerySet:
        """What this caller owns."""
        return self.filter(tenant=actor.tenant, owner_id=actor.id)


class Thread(models.Model):
    """A conversation of one owner. `public_id` is the threadId of AG-UI, chosen by the client or made by the server."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    public_id = models.CharField(max_length=128)
    tenant = models.CharField(max_length=64, db_default=DEFAULT_TENANT, default=DEFAULT_TENANT)
    owner_id = models.CharField(max_length=64)
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="threads")
    standing_key = models.CharField(
        max_length=128,
        null=True,
        blank=True,
        help_text="Set on the thread that GET /ag-ui/events continues: the session id, or '-'.",
    )
    title = models.CharField(max_length=200, blank=True, db_default="")
    state = models.JSONField(null=True, blank=True, help_text="AG-UI shared state after the last run.")
    archived_at = models.DateTimeField(
        null=True, blank=True, help_text="Set by its owner: left out of lists unless asked for."
    )
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    objects = OwnedQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "public_id"], name="thread_public_id"),
            models.UniqueConstraint(
                fields=["tenant", "owner_id", "standing_key"],
                condition=models.Q(standing_key__isnull=False), name="one_standing_thread",
            ),
        ]  # fmt: skip
        indexes = [
            # an owner's threads, newest first
            models.Index(fields=["tenant", "owner_id", "-updated_at"], name="thread_by_owner"),
            # the console's search by id, whoever the owner
            models.Index(fields=["public_id"], name="thread_by_public_id"),
        ]

    def __str__(self) -> str:
        return f"thread {self.public_id}"


class Run(models.Model):
    """One answer of an agent: from an input to a terminal event. Only the holder of the current `fence` writes.

    Moves: queued -> running -> finished | interrupted | failed | cancelled; a claim takes a running row whose lease has ended and
    increments its fence.
    """

    class Status(models.TextChoices):
        """Where a run stands."""

        QUEUED = "queued"
        RUNNING = "running"
        INTERRUPTED = "interrupted"
        FINISHED = "finished"
        FAILED = "failed"
        CANCELLED = "cancelled"

    ACTIVE = (Status.QUEUED, Status.RUNNING)

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    # who asked for what
    public_id = models.CharField(max_length=128, help_text="The runId of AG-UI; unique for its owner.")
    tenant = models.CharField(max_length=64, db_default=DEFAULT_TENANT, default=DEFAULT_TENANT)
    owner_id = models.CharField(max_length=64)
    actor_role = models.CharField(max_length=64, db_default="user")
    thread = models.ForeignKey(Thread, on_delete=models.CASCADE, related_name="runs")
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="runs")
    parent_public_id = models.CharField(max_length=128, blank=True, db_default="")
    input = models.JSONField(
        default=dict, db_default={}, help_text="What the runner needs to go on: messages, tools, state."
    )
    idempotency_key = models.CharField(max_length=128, null=True, blank=True)
    idempotency_digest = models.CharField(
        max_length=64, blank=True, db_default="", help_text="SHA-256 of the request that the key was first used for."
    )
    background = models.BooleanField(
        default=False, db_default=False, help_text="Done by a worker; nobody need be listening."
    )
    # where it stands
    status = models.CharField(max_length=16, choices=Status.choices, db_default=Status.QUEUED)
    outcome = models.JSONField(null=True, blank=True, help_text="The outcome of RUN_FINISHED.")
    error_code = models.CharField(max_length=64, blank=True, db_default="")
    error_message = models.TextField(blank=True, db_default="")
    model = models.CharField(max_length=200, blank=True, db_default="")
    model_turns = models.PositiveIntegerField(db_default=0)
    input_tokens = models.PositiveBigIntegerField(db_default=0)
    output_tokens = models.PositiveBigIntegerField(db_default=0)
    cost = models.DecimalField(
        max_digits=20, decimal_places=9, null=True, blank=True,
        help_text="In US dollars, by the prices of when it was used. Empty: not known, since a model that was used has no price.",
    )  # fmt: skip
    last_seq = models.PositiveBigIntegerField(
        db_default=0, help_text="Number of the last event, set when the run ends."
    )
    event_bytes = models.PositiveBigIntegerField(db_default=0)
    events_packed = models.BooleanField(
        default=False, db_default=False, help_text="The rows of the ended run's event log have been joined into few."
    )
    events_expired_at = models.DateTimeField(
        null=True, blank=True, help_text="When retention removed the event log; messages stay."
    )
    # who holds it
    fence = models.BigIntegerField(db_default=0)
    lease_owner = models.CharField(max_length=64, blank=True, db_default="")
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    crashes = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="How many owners were lost without handing it over."
    )
    cancel_requested_at = models.DateTimeField(
        null=True, blank=True, help_text="A request; the owner of the run carries it out."
    )
    cancel_requested_by = models.CharField(max_length=64, blank=True, db_default="")
    journal_version = models.PositiveSmallIntegerField(db_default=1)
    # traces
    request_id = models.CharField(max_length=128, blank=True, db_default="")
    trace_id = models.CharField(max_length=32, blank=True, db_default="")
    # when
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "owner_id", "public_id"], name="run_public_id"),
            models.UniqueConstraint(
                fields=["tenant", "owner_id", "idempotency_key"],
                condition=models.Q(idempotency_key__isnull=False), name="run_idempotency_key",
            ),
            models.UniqueConstraint(
                fields=["thread"], condition=models.Q(status__in=["queued", "running"]), name="one_active_run_per_thread"
            ),
        ]  # fmt: skip
        indexes = [
            # abandoned runs: active, lease ended
            models.Index(
                fields=["lease_expires_at"],
                condition=models.Q(status__in=["queued", "running"]),
                name="run_active_lease",
            ),
            # ended runs whose event rows are to be joined
            models.Index(
                fields=["finished_at"],
                condition=models.Q(events_packed=False, finished_at__isnull=False),
                name="run_to_pack",
            ),
            # ended runs whose event log may be due for removal
            models.Index(
                fields=["agent", "finished_at"],
                condition=models.Q(events_expired_at__isnull=True, finished_at__isnull=False),
                name="run_to_expire",
            ),
            # the console's lists
            models.Index(fields=["status", "-id"], name="run_by_status"),
            models.Index(fields=["owner_id", "-id"], name="run_by_owner"),
            models.Index(fields=["public_id"], name="run_by_public_id"),
        ]

    def __str__(self) -> str:
        return f"run {self.public_id}"

    @property
    def is_terminal(self) -> bool:
        """Whether no more events will come."""
        return self.status not in self.ACTIVE


class ConversationTurn(models.Model):
    """What one run added to its thread: the user's message(s), the agent's answer, and every AG-UI message between."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    thread = models.ForeignKey(Thread, on_delete=models.CASCADE, related_name="turns")
    run = models.OneToOneField(Run, on_delete=models.CASCADE, related_name="turn")
    position = models.PositiveBigIntegerField(help_text="1 for the thread's first turn.")
    user_message = models.TextField(blank=True, db_default="")
    agent_response = models.TextField(blank=True, db_default="")
    messages = models.JSONField(default=list, db_default=[], help_text="AG-UI messages in order, as clients hold them.")
    token_estimate = models.PositiveIntegerField(db_default=0)
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "conversation_turns"
        constraints = [models.UniqueConstraint(fields=["thread", "position"], name="turn_position")]

    def __str__(self) -> str:
        return f"turn {self.position}"


class ConversationSummary(models.Model):
    """What a model made of a thread's turns up to `up_to_position`: it stands in for them when the model is shown the thread.

    Each summary folds the one before, so the latest counts; the turns themselves stay.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    thread = models.ForeignKey(Thread, on_delete=models.CASCADE, related_name="summaries")
    up_to_position = models.PositiveBigIntegerField(help_text="Position of the last turn that it covers.")
    last_message_id = models.TextField(help_text="The last message that it covers.")
    text = models.TextField()
    token_estimate = models.PositiveIntegerField()
    model = models.CharField(max_length=200, help_text="Who wrote it.")
    input_tokens = models.PositiveBigIntegerField(db_default=0)
    output_tokens = models.PositiveBigIntegerField(db_default=0)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "conversation summaries"
        constraints = [models.UniqueConstraint(fields=["thread", "up_to_position"], name="summary_position")]

    def __str__(self) -> str:
        return f"summary up to turn {self.up_to_position}"


class Step(models.Model):
    """A model turn, a tool call or a delegation of a run: the journal that a successor goes on from."""

    class Kind(models.TextChoices):
        """What kind of work a step is."""

        MODEL_TURN = "model_turn"
        TOOL_CALL = "tool_call"
        DELEGATION = "delegation"

    class Status(models.TextChoices):
        """Where a step stands."""

        STARTED = "started"
        FINISHED = "finished"
        FAILED = "failed"
        CANCELLED = "cancelled"
        INTERRUPTED = "interrupted"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="steps")
    number = models.PositiveIntegerField(help_text="1 for the run's first step.")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    name = models.CharField(max_length=200, db_default="")
    status = models.CharField(max_length=16, choices=Status.choices, db_default=Status.STARTED)
    detail = models.JSONField(
        default=dict, db_default={}, help_text="Model turn: the message. Tool call: arguments and result."
    )
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "number"], name="step_number")]

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


class Interrupt(models.Model):
    """A question that ended a run: a person must decide before the thread goes on. Source: AG-UI 1.0, `Interrupt`.

    The decision is carried out by the thread's next run, which brings it as `resume` or is begun when an operator decides.
    """

    class Reason(models.TextChoices):
        """Why a person must decide; `reason` of the protocol."""

        TOOL_CALL = "tool_call"
        INPUT_REQUIRED = "input_required"
        CONFIRMATION = "confirmation"

    class Status(models.TextChoices):
        """Where a question stands."""

        OPEN = "open"
        RESOLVED = "resolved"
        CANCELLED = "cancelled"
        EXPIRED = "expired"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="interrupts", help_text="The run that asked.")
    thread = models.ForeignKey(Thread, on_delete=models.CASCADE, related_name="interrupts")
    number = models.PositiveIntegerField(help_text="1 for the first question of the run.")
    reason = models.CharField(max_length=32, choices=Reason.choices)
    message = models.TextField(db_default="")
    tool_call_id = models.CharField(max_length=200, blank=True, db_default="")
    response_schema = models.JSONField(null=True, blank=True, help_text="JSON Schema of the answer's payload.")
    detail = models.JSONField(default=dict, db_default={}, help_text="What the run that goes on needs: the call.")
    status = models.CharField(max_length=16, choices=Status.choices, db_default=Status.OPEN)
    decision = models.JSONField(null=True, blank=True, help_text="The answer's payload.")
    decided_by = models.CharField(max_length=64, blank=True, db_default="")
    decided_at = models.DateTimeField(null=True, blank=True)
    decider = models.CharField(
        max_length=16, choices=[(decider.value, decider.value) for decider in Decider],
        default=Decider.ASKER.value, db_default=Decider.ASKER.value,
        help_text="someone_else: never who asked for the call.",
    )  # fmt: skip
    approver_role = models.CharField(
        max_length=64, blank=True, default="", db_default="", help_text="Callers of this role may decide, too."
    )
    expires_at = models.DateTimeField(null=True, blank=True, help_text="After it no answer counts. Empty: never.")
    carried_out_in = models.ForeignKey(
        Run,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The run that the answer led to.",
    )
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("-id",)
        verbose_name = "approval"
        constraints = [models.UniqueConstraint(fields=["run", "number"], name="interrupt_number")]
        indexes = [
            # what a thread's next run must answer
            models.Index(fields=["thread"], condition=models.Q(status="open"), name="interrupt_open"),
            # what was decided in the console and waits to be carried out
            models.Index(
                fields=["decided_at"],
                condition=models.Q(status="open", decided_at__isnull=False),
                name="interrupt_decided",
            ),
            # what nobody answered in time, and the model has not been told
            models.Index(
                fields=["thread"],
                condition=models.Q(status="expired", carried_out_in__isnull=True),
                name="interrupt_untold",
            ),
            models.Index(
                fields=["expires_at"],
                condition=models.Q(status="open", decided_at__isnull=True),
                name="interrupt_expiring",
            ),
            # what callers of a role may decide
            models.Index(
                fields=["approver_role", "-id"], condition=models.Q(decider="someone_else"), name="interrupt_of_role"
            ),
        ]
        permissions = [("decide_interrupt", "Can decide what a run asked")]

    def __str__(self) -> str:
        return f"interrupt {self.id}"


class RunEvents(models.Model):
    """A row of the event log: the events that one run wrote in one group, as AG-UI 1.0 JSON, one a line."""

    pk = models.CompositePrimaryKey("run_id", "seq_from")
    # no constraint: the fence check of each insert already finds the run row
    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="event_rows", db_constraint=False)
    seq_from = models.PositiveBigIntegerField(help_text="Number of the first event in the row; a run's first is 1.")
    seq_to = models.PositiveBigIntegerField()
    events = models.BinaryField()
    version = models.PositiveSmallIntegerField(db_default=1)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "run events"

    def __str__(self) -> str:
        return f"{self.seq_from}-{self.seq_to}"
