"""What several resources need: files in the storage, counting what is used, the audit log, telling others of events."""
