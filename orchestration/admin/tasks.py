"""Tasks that others gave our agents over A2A, in the console: where each stands and which run does it, never what was said."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.decorators import display

from a2a.models import Task
from a2a.tasks import TaskState
from orchestration.admin.lists import ReadOnlyAdmin
from orchestration.admin.presentation import identifier, link, moment
from orchestration.models import Run

_COLOURS = {
    TaskState.COMPLETED: "success",
    TaskState.FAILED: "danger",
    TaskState.INPUT_REQUIRED: "warning",
    TaskState.WORKING: "info",
}


class StateFilter(admin.SimpleListFilter):
    """Where does it stand?"""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: object) -> list[tuple[str, str]]:
        return [(state.value, state.value.replace("_", " ")) for state in TaskState]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        return queryset.filter(state=self.value()) if self.value() in list(TaskState) else queryset


@admin.register(Task)
class TaskAdmin(ReadOnlyAdmin):
    """The list of tasks and the page of one. A state is that of the last look, a minute ago at most."""

    identifiers = ("public_id", "context_id", "run_id", "owner_id")
    list_display = ("task", "agent", "shown_state", "owner", "run", "announcements", "changed")
    list_filter = (StateFilter,)
    fields = ("public_id", "agent", "state", "owner", "context_id", "run", "announcements", "created", "changed")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Task]:
        """Without what was said, with how its states are announced."""
        waiting = Count("push_configs__deliveries", filter=Q(push_configs__deliveries__ended_at__isnull=True))
        failed = Q(push_configs__deliveries__ended_at__isnull=False) & ~Q(push_configs__deliveries__problem="")
        tasks: QuerySet[Task] = super().get_queryset(request)
        return tasks.annotate(waiting=waiting, given_up=Count("push_configs__deliveries", filter=failed)).defer(
            "history", "artifacts", "status_message", "metadata"
        )

    @display(description="Task")
    def task(self, task: Task) -> SafeString:
        return identifier(task.public_id)

    @display(description="State", label=_COLOURS)
    def shown_state(self, task: Task) -> tuple[str, str]:
        return task.state, task.state.replace("_", " ")

    @display(description="Owner")
    def owner(self, task: Task) -> SafeString:
        return identifier(task.owner_id)

    @display(description="Run")
    def run(self, task: Task) -> SafeString | str:
        found = Run.objects.filter(tenant=task.tenant, owner_id=task.owner_id, public_id=task.run_id).only("pk").first()
        return link("admin:orchestration_run_change", found.pk, identifier(task.run_id)) if found else "none"

    @display(description="Announcements")
    def announcements(self, task: Task) -> str:
        counts = {"waiting": getattr(task, "waiting", 0), "given up": getattr(task, "given_up", 0)}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none waiting"

    @display(description="Created (UTC)")
    def created(self, task: Task) -> str:
        return moment(task.created_at)

    @display(description="Changed (UTC)")
    def changed(self, task: Task) -> str:
        return moment(task.status_at)
