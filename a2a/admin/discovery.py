"""Finding agents in the console: from a card's address, a host, or a directory; what was found is shown, and imported switched off."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.generic import TemplateView
from unfold.views import UnfoldModelAdminViewMixin
from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldAdminTextInputWidget

from a2a.discovery import MAX_LISTED, Search, find, import_agent
from audit.console_actor import request_actor

MAX_FILE_BYTES = 256 * 1024


class SearchForm(forms.Form):
    """Where to look."""

    address = forms.CharField(
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "https://agents.example.com", "spellcheck": "false"}),
        help_text="Of a card, of a host (asked at /.well-known/agent-card.json), or of a directory. "
        "Private addresses are refused unless OUTBOUND_ALLOWED_HOSTS names them.",
    )
    directory = forms.FileField(
        required=False,
        widget=UnfoldAdminFileFieldWidget,
        help_text=f"Instead: a file with a JSON list of addresses of cards, {MAX_LISTED} at most.",
    )

    def clean(self) -> dict[str, Any]:
        """One of the two."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        if bool(cleaned.get("directory")) == bool(cleaned.get("address")):
            raise ValidationError("Give either an address or a file.")
        if cleaned.get("directory") and cleaned["directory"].size > MAX_FILE_BYTES:
            self.add_error("directory", f"The file has more than {MAX_FILE_BYTES // 1024} KiB.")
        return cleaned

    def search(self) -> Search:
        """What is there."""
        uploaded = self.cleaned_data["directory"]
        return find(self.cleaned_data["address"], uploaded.read() if uploaded else None)


class DiscoveryPage(UnfoldModelAdminViewMixin, TemplateView):
    """Looks for agents and registers those that are chosen."""

    template_name = "admin/a2a/discovery.html"
    permission_required = "a2a.add_remoteagent"
    title = "Find agents"

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context_data()
        search: Search | None = options.get("search")
        may_import = search is not None and any(one.can_be_imported for one in search.candidates)
        return {**context, "form": SearchForm(), "search": None, "may_import": may_import, **options}

    def post(self, request: HttpRequest, **options: Any) -> HttpResponse:
        """Look, or import what was ticked."""
        if "import" in request.POST:
            return self._import(request)
        form = SearchForm(request.POST, request.FILES)
        search = form.search() if form.is_valid() else None
        return self.render_to_response(self.get_context_data(form=form, search=search))

    def _import(self, request: HttpRequest) -> HttpResponse:
        tickets = request.POST.getlist("chosen")[:MAX_LISTED]
        if not tickets:
            messages.warning(request, "Nothing was chosen.")
            return HttpResponseRedirect(request.get_full_path())
        for ticket in tickets:
            digest, _, card_url = ticket.partition(" ")
            try:
                name, is_proposed = import_agent(card_url, digest, by=request_actor(request))
            except ValidationError as error:
                messages.error(request, " ".join(error.messages))
                continue
            done = (
                "proposed. A second person must approve it"
                if is_proposed
                else "registered, switched off, its card not accepted"
            )
            messages.success(request, f"{name}: {done}.")
        return HttpResponseRedirect(reverse("admin:a2a_remoteagent_changelist"))
