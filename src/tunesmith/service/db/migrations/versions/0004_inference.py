"""A deployment's state is that of its engines, and a deleted one's name is free again."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Bring the tables one version further."""
    with op.batch_alter_table("deployments") as table:
        table.drop_column("state")
        table.drop_column("reason")
        table.drop_column("deleted_at")
