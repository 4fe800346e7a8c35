"""Addresses that Django's views answer; streams are routed in asgi.py."""

from django.contrib import admin
from django.urls import path

from agentbackend import health, metrics

urlpatterns = [
    path("health", health.health, name="health"),
    path("readiness", health.ready, name="readiness"),
    path("metrics", metrics.prometheus, name="metrics"),
    path("metrics-debug", metrics.debug_summary, name="metrics-debug"),
    path("admin/", admin.site.urls),
]
