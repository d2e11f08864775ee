"""Columns that many tables have."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, Double, ForeignKey, MetaData, String

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# In the order of bytes, whatever the database's language: names of things are in the order of time.
NAME = String(64).with_variant(String(64, collation="C"), "postgresql")
LONG_NAME = String(255).with_variant(String(255, collation="C"), "postgresql")


def id_column() -> Column[str]:
    """The name of a row."""
    return Column("id", NAME, primary_key=True)


def project_column() -> Column[str]:
    """The project that a row belongs to; it goes with it."""
    return Column("project_id", NAME, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True)


def time_column(name: str, *, nullable: bool = True) -> Column[float]:
    """A moment."""
    return Column(name, Double, nullable=nullable)


def json_column(name: str, *, nullable: bool = True) -> Column[Any]:
    """Plain data; None is SQL's NULL."""
    return Column(name, JSON(none_as_null=True), nullable=nullable)
