"""What a project has used stays when the project is deleted, and so does its name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_NAME = sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql")
_LONG_NAME = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")


def upgrade() -> None:
    """Bring the tables one version further."""
    op.create_table(
        "deleted_projects",
        sa.Column("id", _NAME, nullable=False),
        sa.Column("name", _LONG_NAME, nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deleted_projects")),
    )
    with op.batch_alter_table("usage") as table:
        table.drop_constraint("fk_usage_project_id", type_="foreignkey")
