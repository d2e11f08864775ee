"""Who asks, and what that one may: keys, callers, and the gate that every route stands behind."""
