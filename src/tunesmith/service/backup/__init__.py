"""Backup and restore: everything that a service knows in one file, for the same or another kind of database."""

from __future__ import annotations

from tunesmith.service.backup.restore import restore_backup
from tunesmith.service.backup.write import write_backup

__all__ = ["restore_backup", "write_backup"]
