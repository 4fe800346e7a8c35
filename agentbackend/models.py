"""Tables of the composition root: what belongs to no room."""

from __future__ import annotations

from django.db import models


class GatewayNonce(models.Model):
    """A signed request that has been used.

    Written and pruned by `agentbackend.gateway.nonces`, read by nobody else.
    """

    id = models.UUIDField(primary_key=True, editable=False, help_text="Digest of the key id and the nonce.")
    expires_at = models.DateTimeField(help_text="Afterwards the signature is too old anyway.")

    class Meta:
        db_table = "gateway_nonces"
        verbose_name = "used signature"
        indexes = [models.Index(fields=["expires_at"], name="gateway_nonces_expires")]  # pruning, each minute

    def __str__(self) -> str:
        return str(self.id)
