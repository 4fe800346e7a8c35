"""Versions never change, and every change of the registry moves its revision on."""

from django.db import migrations

VERSIONS = """
CREATE FUNCTION tools_refuse_change_of_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'versions of tools never change: publish a new one';
END
$$;

CREATE TRIGGER tools_version_never_changes BEFORE UPDATE ON tools_toolversion
    FOR EACH ROW EXECUTE FUNCTION tools_refuse_change_of_version();
ALTER TABLE tools_toolversion ENABLE ALWAYS TRIGGER tools_version_never_changes;
"""

REVISION = """
INSERT INTO tools_registryrevision (id, revision) VALUES (1, 1);

CREATE FUNCTION tools_count_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tools_registryrevision SET revision = revision + 1 WHERE id = 1;
    RETURN NULL;
END
$$;

CREATE TRIGGER tools_count_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tools_tool
    FOR EACH STATEMENT EXECUTE FUNCTION tools_count_change();
CREATE TRIGGER tools_count_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tools_callerrole
    FOR EACH STATEMENT EXECUTE FUNCTION tools_count_change();
CREATE TRIGGER tools_count_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tools_callerrole_inherits
    FOR EACH STATEMENT EXECUTE FUNCTION tools_count_change();
CREATE TRIGGER tools_count_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tools_denyrule
    FOR EACH STATEMENT EXECUTE FUNCTION tools_count_change();
"""

UNDO = """
DROP TRIGGER tools_count_change ON tools_denyrule;
DROP TRIGGER tools_count_change ON tools_callerrole_inherits;
DROP TRIGGER tools_count_change ON tools_callerrole;
DROP TRIGGER tools_count_change ON tools_tool;
DROP FUNCTION tools_count_change();
DELETE FROM tools_registryrevision;
DROP TRIGGER tools_version_never_changes ON tools_toolversion;
DROP FUNCTION tools_refuse_change_of_version();
"""


class Migration(migrations.Migration):
    dependencies = [("tools", "0001_initial")]

    operations = [migrations.RunSQL([VERSIONS, REVISION], reverse_sql=UNDO)]
