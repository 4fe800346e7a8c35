"""Console users and groups.

Nobody gives or gains more than they have. Superusers may do everything; others change only users whose permissions they hold
themselves (whoever sets a password can sign in as its owner), and give only groups of which that is true.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from procrastinate.contrib.django.models import ProcrastinateJob, ProcrastinateWorker
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from audit.admin import BoundedPaginator
from audit.admin_recording import AuditedModelAdmin, AuditedUserAdmin

for _model in (ProcrastinateJob, ProcrastinateWorker):
    if admin.site.is_registered(_model):
        admin.site.unregister(_model)
admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(AuditedUserAdmin, DjangoUserAdmin, ModelAdmin):
    """Who may sign in to the console."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "group_names", "is_active", "is_superuser", "last_login")
    list_filter = ("is_active", "is_superuser", "groups")
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    actions = None

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """With the groups, read once for the whole list."""
        users: QuerySet[User] = super().get_queryset(request).prefetch_related("groups")
        return users

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        own = ("last_login", "date_joined")
        return own if request.user.is_superuser else (*own, "is_superuser", "user_permissions")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return super().has_add_permission(request) and _may_keep_accounts(request)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        allowed = super().has_change_permission(request, obj) and _may_touch(request, obj)
        return allowed and _may_keep_accounts(request)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        allowed = super().has_delete_permission(request, obj) and _may_touch(request, obj)
        return allowed and _may_keep_accounts(request)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """Only groups whose permissions the editor holds can be given."""
        if db_field.name == "groups" and not request.user.is_superuser:
            options["queryset"] = _groups_within(request.user)
        return super().formfield_for_manytomany(db_field, request, **options)

    @display(description="Groups")
    def group_names(self, user: User) -> str:
        return ", ".join(group.name for group in user.groups.all())


def _may_keep_accounts(request: HttpRequest) -> bool:
    """Where changes need a second person, accounts are a superuser's: who can make one could be that person, too."""
    return bool(request.user.is_superuser) or not settings.FOUR_EYES


def _may_touch(request: HttpRequest, user: User | None) -> bool:
    """Whether the editor holds all that the user may do, switched off or not."""
    if user is None or request.user.is_superuser:
        return True
    held = Permission.objects.filter(Q(user=user) | Q(group__user=user))
    return not user.is_superuser and _names(held) <= request.user.get_all_permissions()


def _groups_within(editor: Any) -> QuerySet[Group]:
    """The groups whose permissions the editor holds."""
    own = editor.get_all_permissions()
    return Group.objects.filter(
        pk__in=[group.pk for group in Group.objects.all() if _names(group.permissions.all()) <= own]
    )


def _names(permissions: QuerySet[Permission]) -> set[str]:
    """Permissions as Django's `has_perm` names them."""
    return {f"{found.content_type.app_label}.{found.codename}" for found in permissions.select_related("content_type")}


@admin.register(Group)
class GroupAdmin(AuditedModelAdmin, DjangoGroupAdmin, ModelAdmin):
    """What console users may do together. Changed by superusers only: a group's permissions are everybody's in it."""

    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Group | None = None) -> bool:
        return bool(request.user.is_superuser)


@admin.register(ProcrastinateJob)
class JobAdmin(ModelAdmin):
    """What is queued: runs in the background, abandoned runs, maintenance. Read-only: runs are what is cancelled."""

    list_display = ("id", "task_name", "state", "queue_name", "arguments", "attempts", "scheduled_at")
    list_filter = ("status", "queue_name", "task_name")
    fieldsets = (
        (
            None,
            {"fields": (("id", "state"), ("task_name", "queue_name"), ("attempts", "scheduled_at"), "queueing_lock")},
        ),
        ("Arguments", {"fields": ("arguments",)}),
        ("Events", {"fields": ("events",)}),
    )
    readonly_fields = ("state", "arguments", "events")
    ordering = ("-id",)
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    actions = None
    list_fullwidth = True

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description="State", label={"todo": "info", "doing": "info", "succeeded": "success", "failed": "danger"})
    def state(self, job: ProcrastinateJob) -> str:
        return str(job.status)

    @display(description="Arguments")
    def arguments(self, job: ProcrastinateJob) -> str:
        return ", ".join(f"{name}={value}" for name, value in job.args.items()) or "none"

    @display(description="Events (UTC)")
    def events(self, job: ProcrastinateJob) -> SafeString:
        found = job.procrastinateevent_set.order_by("id")[:50]
        return format_html_join(
            "",
            '<p class="console-row"><span>{}</span>{}</p>',
            ((f"{event.at:%Y-%m-%d %H:%M:%S}", event.type) for event in found),
        )
