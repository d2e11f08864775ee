"""A cluster with KAITO, which tunes and serves by itself what its presets know.

presets, limits    which models, and what of a recipe it can do       config, manifests, rows    what is submitted
cluster, state, progress, adapter    what it says and gives back      executor, deployer   the two protocols
"""
