"""Rules on arguments, servers and stored credentials stand in the registry's snapshot, too."""

from django.db import migrations

_TABLES = ("tools_argumentrule", "tools_remoteserver", "tools_storedcredential")

COUNT = "\n".join(
    f"CREATE TRIGGER tools_count_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
    "FOR EACH STATEMENT EXECUTE FUNCTION tools_count_change();"
    for table in _TABLES
)
UNDO = "\n".join(f"DROP TRIGGER tools_count_change ON {table};" for table in _TABLES)


class Migration(migrations.Migration):
    dependencies = [("tools", "0003_governed_tools")]

    operations = [migrations.RunSQL(COUNT, reverse_sql=UNDO)]
