"""Rates of all processes, sign-ins under way, the secret that signs cookies, and who made a key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NAME = sa.String(length=64).with_variant(sa.String(length=64, collation="C"), "postgresql")
_LONG_NAME = sa.String(length=255).with_variant(sa.String(length=255, collation="C"), "postgresql")


def upgrade() -> None:
    """Bring the tables one version further."""
    op.add_column("projects", sa.Column("budget_told", sa.Double(), nullable=True))
    op.add_column("api_keys", sa.Column("created_by", _LONG_NAME, nullable=True))
    op.create_table(
        "sign_ins",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("verifier", sa.String(length=128), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sign_ins")),
    )
    op.create_table(
        "secrets",
        sa.Column("name", _NAME, nullable=False),
        sa.Column("value", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "rates",
        sa.Column("subject", _LONG_NAME, nullable=False),
        sa.Column("minute", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "minute", name=op.f("pk_rates")),
    )
