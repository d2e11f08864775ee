"""The registry as a project sees it: its tuned models with lineage, measures, cards and labels."""
