"""Files and uploads in parts; their bytes are in the storage."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Table

from tunesmith.service.db.tables.columns import (
    METADATA,
    NAME,
    id_column,
    project_column,
    time_column,
)

# status: uploaded | processed | error. place: path in the storage.
FILES = Table(
    "files",
    METADATA,
    id_column(),
    project_column(),
    Column("purpose", String(32), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("place", String(255), nullable=False),
    Column("status", String(16), nullable=False),
    Column("status_details", String(1024)),
    time_column("created_at", nullable=False),
    time_column("expires_at"),
    time_column("deleted_at"),
)

# status: pending | completed | cancelled | expired
UPLOADS = Table(
    "uploads",
    METADATA,
    id_column(),
    project_column(),
    Column("purpose", String(32), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("mime_type", String(255), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("file_id", NAME),
    # What the file is to have once it is whole.
    Column("file_expires_seconds", Integer),
    time_column("created_at", nullable=False),
    time_column("expires_at", nullable=False),
)

UPLOAD_PARTS = Table(
    "upload_parts",
    METADATA,
    id_column(),
    Column("upload_id", NAME, ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("bytes", BigInteger, nullable=False),
    Column("place", String(255), nullable=False),
    time_column("created_at", nullable=False),
)
