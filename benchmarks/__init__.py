"""Benchmarks of the main job, run by hand: ``python -m benchmarks.main_job``, ``python -m benchmarks.startup``."""
