"""The service of one process: it makes the parts, joins them, starts them in order and stops them in reverse.

Daphne knows no lifespan events, so `manage.py serve` calls `start` and `stop` itself; under another ASGI server the application's
lifespan does.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable

from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, get_channel_layer
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from a2a import loading as a2a_loading
from a2a.delegation import directory
from a2a.push.announcing import Announcer
from a2a.roster import roster
from a2a.scripted_agent import ScriptedAgent
from a2a.serving.task_service import TaskService
from a2a.signing_keys import SigningKeys
from a2a.tck_agent import TckAgent
from agentbackend import readiness
from agentbackend.dispatch.jobs import Jobs, JobsConfig
from agentbackend.dispatch.workers import WorkerPlan, Workers
from agentbackend.foundation import metrics
from agentbackend.foundation.database import database
from agentbackend.foundation.keyring import KeyRingError
from agentbackend.foundation.outbound import OutboundPolicy
from agentbackend.foundation.writer import GroupWriter
from agentbackend.gateway.authentication import Authenticator, key_set_host
from agentbackend.gateway.nonces import prune_nonces
from agentbackend.gateway.recording import GatewayRecorder
from agentbackend.metrics import register_refresher
from agentbackend.schema import pending_migrations
from agentbackend.telemetry import instrument_client, shutdown_telemetry
from audit import sign_ins
from audit.writing import WriterRecorder
from orchestration.a2a_runs import A2ARuns
from orchestration.doorbell import Doorbell, SharedLayer
from orchestration.engine import Engine, EngineConfig
from orchestration.model_port import ModelPort
from orchestration.model_port.opening import ModelConfig, open_demo_port, open_model_port, open_provider_port
from orchestration.model_port.several import SeveralProviders
from tools import process as tool_process
from tools import registry as tool_registry
from tools.builtin import debug
from tools.governance.policies import publish_keywords_of_setting
from tools.http_endpoint import sending
from tools.mcp_client.loading import close_connections
from tools.mcp_server.open_requests import OpenRequests

logger = logging.getLogger(__name__)


DEMO_MODEL = "scripted-demo"


class Service:
    """What one process runs. Made at import, started inside the event loop."""

    def __init__(self) -> None:
        self.database = database
        self.writer = GroupWriter(database, gap=settings.WRITER_GROUP_GAP_MS / 1000)
        self.doorbell = Doorbell(_shared_layer())
        self.engine = Engine(database, self.writer, _engine_config(), self.doorbell)
        self.jobs = Jobs(database, self.engine, JobsConfig(settings.EVENT_RETENTION_DAYS))
        self.workers: Workers | None = None
        self.recorder = GatewayRecorder(self.writer)
        allowed = [*settings.OUTBOUND_ALLOWED_HOSTS, *key_set_host(settings.SUPABASE_URL)]
        policy = OutboundPolicy(
            allowed_hosts=allowed,
            proxy=settings.OUTBOUND_PROXY,
            ca_file=settings.OUTBOUND_CA_FILE,
            prepare=instrument_client,
        )
        self.authenticator = Authenticator.from_settings(settings, observer=self.recorder, policy=policy)
        tool_process.configure(policy=policy, recorder=WriterRecorder(self.writer))
        self.a2a_keys = _signing_keys()
        self.a2a_tasks = TaskService(
            database,
            A2ARuns(self.engine),
            TckAgent() if settings.A2A_TCK_AGENT else None,
            most_waiting=settings.MAX_CONCURRENT_RUNS,
        )
        self.announcer = Announcer(database, self.a2a_tasks.runs, policy, self.a2a_keys)
        self.jobs.announcer = self.announcer
        self.mcp_requests = OpenRequests(settings.MAX_CONCURRENT_RUNS)
        self._model_port: ModelPort | None = None
        self._loops: list[asyncio.Task[None]] = []
        self.is_draining = False
        self._migrated = False

    async def start(self, *, concurrency: int | None = None) -> None:
        """Open the pool, the writer, the model port, the engine and the workers; raises what keeps the service from working.

        `concurrency`: background runs at once; None is what the settings say for a process that serves requests.
        """
        plan = settings.DATABASE_PLAN
        await self.database.open(
            plan.runtime_conninfo,
            session_statements=plan.session_statements,
            max_size=settings.DATABASE_POOL_SIZE,
            prepare_threshold=plan.prepare_threshold,
        )
        self.writer.start()
        self._model_port = self._open_models()
        directory.source = roster.peers
        if settings.MODEL_IS_DEMO:
            directory.add(ScriptedAgent())
        await self._warn_of_others()
        await sync_to_async(publish_keywords_of_setting)(settings.DISALLOWED_KEYWORDS)
        if self.a2a_keys.active is None:
            logger.warning("A2A_SIGNING_KEYS is not set: cards of exposed agents and push notifications are not signed")
        self.engine.start(self._model_port)
        self.doorbell.start()
        if concurrency is None:
            concurrency = settings.WORKER_CONCURRENCY if settings.WORKER_IN_PROCESS else 0
        self.workers = Workers(self.jobs, self.database, WorkerPlan(concurrency))
        await self.workers.start()
        self.engine.dispatcher = self.jobs
        loop = asyncio.get_running_loop()
        self._loops = [
            loop.create_task(self.recorder.refusals.run(), name="refusals"),
            loop.create_task(_each_minute(prune_nonces, "expired nonces could not be removed"), name="nonces"),
            loop.create_task(self._announce(), name="announcements"),
            loop.create_task(_each_minute(self.engine.tidy_budgets, "budgets could not be tidied"), name="budgets"),
            loop.create_task(
                _each_minute(sign_ins.flush_async, "failed sign-ins could not be counted"), name="sign-ins"
            ),
        ]
        self._register_sources()
        # What start-up made lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 50)
        logger.info("the service is ready", extra={"demo_model": settings.MODEL_IS_DEMO})

    def _open_models(self) -> ModelPort:
        """The port to the service's own provider, and to those that operators add."""
        config = _model_config()
        return SeveralProviders(
            open_model_port(config, prepare=instrument_client),
            open_demo=lambda: open_demo_port(config, prepare=instrument_client),
            open_provider=lambda access: open_provider_port(access, config, tool_process.outbound_policy()),
            models=self.engine.models.models,
            registry=tool_registry.registry.snapshot,
        )

    async def stop(self) -> None:
        """Drain: refuse new runs, let those going on finish or give them away, then close everything."""
        self.is_draining = True
        if self.workers is not None:
            self.workers.quiesce()
        grace = settings.SHUTDOWN_GRACE_SECONDS
        await asyncio.gather(self.engine.stop(grace), self.mcp_requests.drain(grace))
        if self.workers is not None:
            await self.workers.stop()
        await close_connections()
        await a2a_loading.close_connections()
        await self.announcer.aclose()
        await self.doorbell.stop()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await sign_ins.flush_async(everything=True)
        await self.writer.stop()
        if self._model_port is not None:
            await self._model_port.aclose()
        await self.authenticator.aclose()
        await sending.close_client()
        await self.database.close()
        await asyncio.to_thread(shutdown_telemetry)
        logger.info("the service has stopped")

    async def _warn_of_others(self) -> None:
        if not self.doorbell.is_shared and await self.engine.live.others_carry_out_runs():
            logger.warning(
                "another process seems to carry out runs on this database; without REDIS_URL processes learn of each "
                "other's events by a query a second"
            )

    def _register_sources(self) -> None:
        readiness.register("database", self._database_is_well)
        readiness.register("migrations", self._migrations_are_applied)
        readiness.register("channel_layer", _ChannelLayerCheck())
        readiness.register("writer", self._writer_is_well)
        readiness.register("worker", self._workers_work)
        readiness.register("accepting", self._is_accepting)
        register_refresher(self._refresh_gauges)
        debug.register_source("pool", self.database.statistics)
        debug.register_source("queue", self._queue_statistics)

    async def _announce(self) -> None:
        """Each second: queue what is to be announced of A2A tasks. Whatever fails here is found again."""
        while True:
            await asyncio.sleep(1.0)
            try:
                await self.jobs.defer_announcements(await self.announcer.due())
            except Exception:
                logger.exception("the states of A2A tasks could not be announced")

    async def _database_is_well(self) -> None:
        await self.database.fetch_one("SELECT 1")

    async def _migrations_are_applied(self) -> None:
        if not self._migrated:
            if await sync_to_async(pending_migrations)():
                raise readiness.NotReadyError("migrations are missing")
            self._migrated = True

    async def _workers_work(self) -> None:
        idle = self.workers.idle if self.workers is not None else ["all"]
        if idle:
            raise readiness.NotReadyError(f"no jobs are fetched: {', '.join(idle)}")

    async def _is_accepting(self) -> None:
        if self.is_draining or not self.engine.is_accepting:
            raise readiness.NotReadyError("shutting down")

    def _refresh_gauges(self) -> None:
        written, pool = self.writer.statistics, self.database.statistics()
        metrics.runs_active.set(self.engine.active_runs)
        metrics.writer_groups.set(written.groups)
        metrics.writer_units.set(written.units)
        metrics.writer_seconds.set(written.commit_seconds)
        metrics.writer_bytes.set(written.bytes)
        metrics.writer_rejected.set(written.rejected)
        metrics.writer_retries.set(written.retries)
        metrics.writer_pending.set(self.writer.pending)
        metrics.writer_lag_seconds.set(self.writer.lag_seconds)
        metrics.pool_connections.labels(state="open").set(pool.get("pool_size", 0))
        metrics.pool_connections.labels(state="free").set(pool.get("pool_available", 0))
        metrics.pool_waiting.set(pool.get("requests_waiting", 0))

    async def _writer_is_well(self) -> None:
        if not self.writer.is_running:
            raise readiness.NotReadyError("the writer does not run")
        if self.writer.lag_seconds > settings.RUN_LEASE_SECONDS:
            raise readiness.NotReadyError("the writer is behind")

    def _queue_statistics(self) -> dict[str, float]:
        statistics = self.writer.statistics
        return {
            "pending_units": self.writer.pending,
            "lag_seconds": round(self.writer.lag_seconds, 3),
            "groups": statistics.groups,
            "units": statistics.units,
            "retries": statistics.retries,
            "active_runs": self.engine.active_runs,
            "readers": self.engine.live.readers,
            "mcp_requests": self.mcp_requests.count,
            "a2a_waiting": self.a2a_tasks.waiting,
        }


def _signing_keys() -> SigningKeys:
    """The keys that sign our agents' cards; raises ImproperlyConfigured."""
    try:
        return SigningKeys.of(settings.A2A_SIGNING_KEYS)
    except KeyRingError as error:
        raise ImproperlyConfigured(f"A2A_SIGNING_KEYS: {error}.") from None


def _engine_config() -> EngineConfig:
    return EngineConfig(
        default_model=DEMO_MODEL if settings.MODEL_IS_DEMO else settings.OPENAI_MODEL,
        summary_model="" if settings.MODEL_IS_DEMO else settings.SUMMARY_MODEL,
        max_iterations=settings.MAX_ITERATIONS_PER_TURN,
        max_concurrent_runs=settings.MAX_CONCURRENT_RUNS,
        max_run_bytes=settings.MAX_RUN_BYTES,
        max_run_seconds=settings.MAX_RUN_SECONDS,
        max_crashes=settings.MAX_RUN_CRASHES,
        approval_seconds=settings.APPROVAL_EXPIRES_SECONDS,
        lease_seconds=settings.RUN_LEASE_SECONDS,
        heartbeat_seconds=settings.RUN_HEARTBEAT_SECONDS,
        stream_heartbeat_seconds=settings.STREAM_HEARTBEAT_SECONDS,
    )


def _model_config() -> ModelConfig:
    return ModelConfig(
        api_key=settings.OPENAI_API_KEY,
        base_url=settings.OPENAI_BASE_URL,
        connect_timeout=settings.MODEL_CONNECT_TIMEOUT_SECONDS,
        first_token_timeout=settings.MODEL_FIRST_TOKEN_TIMEOUT_SECONDS,
        idle_timeout=settings.MODEL_IDLE_TIMEOUT_SECONDS,
        proxy=settings.OUTBOUND_PROXY,
        ca_file=settings.OUTBOUND_CA_FILE,
    )


def _shared_layer() -> SharedLayer | None:
    """The channel layer when other processes have it too; the one in memory reaches nobody."""
    layer = get_channel_layer()
    return None if isinstance(layer, InMemoryChannelLayer) else layer


class _ChannelLayerCheck:
    """Sends a message to itself, always on one channel: the layer on Redis keeps a subscription for each that was ever made."""

    def __init__(self) -> None:
        self._channel = ""

    async def __call__(self) -> None:
        layer = get_channel_layer()
        if layer is None:
            raise readiness.NotReadyError("there is no channel layer")
        if not self._channel:
            self._channel = await layer.new_channel("readiness")
        await layer.send(self._channel, {"type": "readiness.check"})
        try:
            await layer.receive(self._channel)
        except asyncio.CancelledError:
            self._channel = ""  # the layer forgets a channel whose reader was cancelled
            raise


async def _each_minute(work: Callable[[], Awaitable[object]], complaint: str) -> None:
    while True:
        await asyncio.sleep(60.0)
        try:
            await work()
        except Exception:
            logger.exception(complaint)


service = Service()
"""This process's service."""
