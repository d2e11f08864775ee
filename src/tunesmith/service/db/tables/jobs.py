"""Fine-tuning jobs, what happened to them, and their checkpoints."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, String, Table, UniqueConstraint

from tunesmith.service.db.tables.columns import (
    LONG_NAME,
    METADATA,
    NAME,
    id_column,
    json_column,
    project_column,
    time_column,
)

# state: validating_files | queued | running | paused | succeeded | failed | cancelled. wish: run | pause | cancel.
# base: what the model stands on at last. counted_step: up to where the steps' tokens are counted as used.
# lock_*: which dispatcher works for the job, and until when; whoever writes names the lock it holds.
JOBS = Table(
    "jobs",
    METADATA,
    id_column(),
    project_column(),
    time_column("created_at", nullable=False),
    Column("created_by", LONG_NAME, nullable=False),
    Column("model", LONG_NAME, nullable=False),
    Column("base", LONG_NAME, nullable=False, server_default=""),
    Column("suffix", String(64)),
    Column("training_file", NAME, nullable=False),
    Column("validation_file", NAME),
    Column("seed", BigInteger, nullable=False),
    json_column("method", nullable=False),
    json_column("hyperparameters", nullable=False),
    json_column("metadata"),
    json_column("integrations"),
    json_column("options", nullable=False),
    json_column("recipe", nullable=False),
    json_column("estimate"),
    Column("state", String(32), nullable=False, index=True),
    Column("reason", String(64), nullable=False),
    json_column("error"),
    Column("wish", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    time_column("started_at"),
    time_column("finished_at"),
    time_column("estimated_finish"),
    Column("trained_tokens", BigInteger),
    Column("fine_tuned_model", LONG_NAME),
    json_column("result_files", nullable=False),
    Column("run", LONG_NAME),
    Column("told_seq", BigInteger, nullable=False, default=0),
    Column("counted_step", BigInteger, nullable=False, default=0, server_default="0"),
    Column("tries", Integer, nullable=False, default=0),
    Column("lock_token", String(64)),
    time_column("lock_expires_at"),
    time_column("look_at"),
)

# level: info | warn | error. type: message | metrics.
JOB_EVENTS = Table(
    "job_events",
    METADATA,
    id_column(),
    Column("job_id", NAME, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    time_column("created_at", nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(16), nullable=False),
    Column("message", String(2048), nullable=False),
    json_column("data"),
    # What it was made from, where that may be read twice.
    Column("source", String(64)),
    UniqueConstraint("job_id", "source"),
    Index("ix_job_events_job_id_id", "job_id", "id"),
)

JOB_CHECKPOINTS = Table(
    "job_checkpoints",
    METADATA,
    id_column(),
    Column("job_id", NAME, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("step", BigInteger, nullable=False),
    Column("name", LONG_NAME, nullable=False, unique=True),
    json_column("metrics", nullable=False),
    time_column("created_at", nullable=False),
    UniqueConstraint("job_id", "step"),
)

CHECKPOINT_PERMISSIONS = Table(
    "checkpoint_permissions",
    METADATA,
    id_column(),
    Column("checkpoint", LONG_NAME, nullable=False, index=True),
    Column("project_id", NAME, ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    time_column("created_at", nullable=False),
    UniqueConstraint("checkpoint", "project_id"),
)
