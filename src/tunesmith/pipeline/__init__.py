"""The stages of a run, and the only place that knows their order.

data      sources to rows on both sides of the split     stages     what a worker can be asked for
prepare   model, tokens, audit, resolved values          train      the run itself, from recipe to report
measure   systems measured before and after              finish     report and manifest
"""
