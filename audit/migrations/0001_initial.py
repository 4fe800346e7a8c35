"""The audit trail: two append-only tables, partitioned by the month in their UUIDv7, with DEFAULT partitions.

Months are made by `audit.partitions.create_partitions`; whatever fits in none of them lands in DEFAULT.
"""

import django.db.models.deletion
from django.db import migrations, models

TABLES = """
CREATE TABLE audit_events (
    id uuid NOT NULL,
    recorded_at timestamptz NOT NULL,
    tenant text NOT NULL,
    actor_id text NOT NULL,
    subject_id text NOT NULL,
    action text NOT NULL,
    target_kind text NOT NULL,
    target_id text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('success', 'denied', 'failure')),
    reason text NOT NULL,
    run_id uuid,
    thread_id uuid,
    request_id text NOT NULL,
    envelope bytea NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE TABLE audit_payload (
    event_id uuid NOT NULL,
    key bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (event_id)
) PARTITION BY RANGE (event_id);

CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT;
CREATE TABLE audit_payload_default PARTITION OF audit_payload DEFAULT;
"""

# The primary key serves "newest first", any range of time, and cursors. Each further index ends in id, so that a
# page of its query is read from the index's end. Empty values are left out: nobody searches for them.
INDEXES = """
-- "what did this person do?"
CREATE INDEX audit_events_actor ON audit_events (actor_id, id);
-- "what was done to, or about, this person?"
CREATE INDEX audit_events_subject ON audit_events (subject_id, id) WHERE subject_id <> '';
-- "when did this kind of thing happen?"
CREATE INDEX audit_events_action ON audit_events (action, id);
-- "what was denied, what failed?": the few among the many
CREATE INDEX audit_events_not_successful ON audit_events (id) WHERE outcome <> 'success';
-- "why was it refused?"
CREATE INDEX audit_events_reason ON audit_events (reason, id) WHERE reason <> '';
-- "what happened to this tool, agent, user?"
CREATE INDEX audit_events_target ON audit_events (target_id, id) WHERE target_id <> '';
-- "what belongs to this run?"
CREATE INDEX audit_events_run ON audit_events (run_id, id) WHERE run_id IS NOT NULL;
-- "what belongs to this conversation?"
CREATE INDEX audit_events_thread ON audit_events (thread_id, id) WHERE thread_id IS NOT NULL;
-- "what came of this request?"
CREATE INDEX audit_events_request ON audit_events (request_id, id) WHERE request_id <> '';
"""

# ALWAYS: plain triggers do not fire for a session in replica role. Row triggers are copied to partitions, statement
# triggers are not, so each partition gets its own against TRUNCATE.
PROTECTION = """
CREATE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only: % on % is refused', TG_OP, TG_TABLE_NAME;
END
$$;

CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION audit_refuse_change();
CREATE TRIGGER audit_append_only BEFORE UPDATE ON audit_payload
    FOR EACH ROW EXECUTE FUNCTION audit_refuse_change();

CREATE FUNCTION audit_protect(relation regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON %s '
                   'FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change()', relation);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER audit_no_truncate', relation);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER audit_append_only', relation);
END
$$;

SELECT audit_protect('audit_events'), audit_protect('audit_payload'),
       audit_protect('audit_events_default'), audit_protect('audit_payload_default');
"""

# The runtime role may read and add, through the parents; what default privileges gave it beyond that is taken back.
# Where there is no such role, or it owns the tables, nothing changes: there the triggers stand alone.
PRIVILEGES = """
CREATE FUNCTION audit_restrict(runtime name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    relation regclass;
    parent boolean;
BEGIN
    FOR relation, parent IN
        SELECT tree.relid, tree.level = 0
        FROM unnest(ARRAY['audit_events', 'audit_payload']::regclass[]) AS root,
             pg_partition_tree(root) AS tree
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', relation);
        CONTINUE WHEN NOT EXISTS (
            SELECT FROM pg_roles AS role JOIN pg_class AS class ON class.oid = relation
            WHERE role.rolname = runtime AND role.oid <> class.relowner
        );
        EXECUTE format('REVOKE ALL ON %s FROM %I', relation, runtime);
        IF parent THEN
            EXECUTE format('GRANT SELECT, INSERT ON %s TO %I', relation, runtime);
        END IF;
    END LOOP;
END
$$;

SELECT audit_restrict('agentbackend_runtime');
"""


class Migration(migrations.Migration):
    initial = True
    dependencies = []

    operations = [
        migrations.RunSQL(TABLES),
        migrations.RunSQL(INDEXES),
        migrations.RunSQL(PROTECTION),
        migrations.RunSQL(PRIVILEGES),
        migrations.CreateModel(
            name="AuditEvent",
            fields=[
                ("id", models.UUIDField(primary_key=True, serialize=False)),
                ("recorded_at", models.DateTimeField(verbose_name="time")),
                ("tenant", models.TextField()),
                ("actor_id", models.TextField(verbose_name="actor")),
                ("subject_id", models.TextField(verbose_name="subject")),
                ("action", models.TextField()),
                ("target_kind", models.TextField()),
                ("target_id", models.TextField(verbose_name="target")),
                (
                    "outcome",
                    models.TextField(
                        choices=[("success", "success"), ("denied", "denied"), ("failure", "failure")]
                    ),
                ),
                ("reason", models.TextField()),
                ("run_id", models.UUIDField(null=True, verbose_name="run")),
                ("thread_id", models.UUIDField(null=True, verbose_name="thread")),
                ("request_id", models.TextField(verbose_name="request")),
                ("envelope", models.BinaryField()),
            ],
            options={
                "db_table": "audit_events",
                "managed": False,
                "default_permissions": ("view",),
                "ordering": ["-id"],
                "verbose_name": "audit event",
            },
        ),
        migrations.CreateModel(
            name="AuditPayload",
            fields=[
                (
                    "event",
                    models.OneToOneField(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        primary_key=True,
                        related_name="payload",
                        serialize=False,
                        to="audit.auditevent",
                    ),
                ),
                ("key", models.BinaryField()),
                ("body", models.BinaryField()),
            ],
            options={
                "db_table": "audit_payload",
                "managed": False,
                "default_permissions": ("view",),
                "verbose_name": "audit payload",
            },
        ),
    ]
