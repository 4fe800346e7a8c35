from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="GatewayNonce",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        editable=False,
                        help_text="Digest of the key id and the nonce.",
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("expires_at", models.DateTimeField(help_text="Afterwards the signature is too old anyway.")),
            ],
            options={
                "verbose_name": "used signature",
                "db_table": "gateway_nonces",
                "indexes": [models.Index(fields=["expires_at"], name="gateway_nonces_expires")],
            },
        ),
    ]
