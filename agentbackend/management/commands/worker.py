"""`manage.py worker`: a process without a port that does what is queued."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS

from agentbackend.schema import migrate_now

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    """Do runs in the background, take up abandoned ones, care for event logs; SIGTERM and SIGINT drain."""

    help = "Runs a worker: background runs, abandoned runs and maintenance, until SIGTERM."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--concurrency", type=int, default=settings.WORKER_CONCURRENCY, help="runs at once (WORKER_CONCURRENCY)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.CONFIGURATION_PROBLEMS:
            raise CommandError("The worker does not start:\n  " + "\n  ".join(settings.CONFIGURATION_PROBLEMS))
        if options["concurrency"] < 1:
            raise CommandError("--concurrency: a worker does at least one run at once.")
        self.check()
        if settings.MIGRATE_ON_START:
            migrate_now()
        self.check(tags=[Tags.database], databases=[DEFAULT_DB_ALIAS])
        asyncio.run(_work(options["concurrency"]))


async def _work(concurrency: int) -> None:
    from agentbackend.service import service  # noqa: PLC0415 - starts the rooms

    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    await service.start(concurrency=concurrency)
    try:
        await told.wait()
        logger.info("draining")
    finally:
        await service.stop()
