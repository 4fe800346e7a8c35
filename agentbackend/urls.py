"""Addresses that Django's views answer; streams are routed in asgi.py."""

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView

from agentbackend import health, metrics
from agentbackend.console_password import change_own_password
from orchestration.playground.views import playground

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="root"),
    path("health", health.health, name="health"),
    path("readiness", health.ready, name="readiness"),
    path("metrics", metrics.prometheus, name="metrics"),
    path("metrics-debug", metrics.debug_summary, name="metrics-debug"),
    path("playground/", playground, name="playground"),
    path("admin/password_change/", admin.site.admin_view(change_own_password, cacheable=True)),
    path("admin/", admin.site.urls),
]
