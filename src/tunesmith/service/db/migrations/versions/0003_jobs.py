"""Jobs know what their model stands on, and which steps are counted as used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Bring the tables one version further."""
    name = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("base", name, nullable=False, server_default=""))
        batch_op.add_column(sa.Column("counted_step", sa.BigInteger(), nullable=False, server_default="0"))
