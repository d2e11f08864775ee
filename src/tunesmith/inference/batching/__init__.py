"""Continuous batching: rows of many requests and adapters that are computed together."""
