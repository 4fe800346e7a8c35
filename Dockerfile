# syntax=docker/dockerfile:1
# The service in one image: a virtual environment made in the first stage, nothing to build with in the second.
# The database is another container's: give SUPABASE_DATABASE_URL. Runs on a read-only file system with a tmpfs at /tmp.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/venv
COPY requirements.txt /tmp/requirements.txt
# Bytecode is compiled once, here: the final image cannot write it.
RUN /opt/venv/bin/pip install --requirement /tmp/requirements.txt \
    && /opt/venv/bin/python -m compileall -q -j 0 /opt/venv/lib
WORKDIR /srv/agentbackend
COPY . .
# Settings that only let Django read its settings: none of them stays in the image.
RUN DJANGO_DEBUG=1 DJANGO_SECRET_KEY=for-the-build-only SUPABASE_DATABASE_URL=postgresql://nobody@localhost/none \
    /opt/venv/bin/python manage.py collectstatic --noinput \
    && /opt/venv/bin/python -m compileall -q agentbackend audit tools a2a orchestration

FROM python:3.11-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp PORT=8000
RUN groupadd --gid 10001 agentbackend \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin agentbackend
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/agentbackend /srv/agentbackend
WORKDIR /srv/agentbackend
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Liveness only: a database that is away is no reason to restart the service. /readiness is for the load balancer.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "agentbackend.health_probe"]
CMD ["python", "manage.py", "serve", "--host", "0.0.0.0"]
