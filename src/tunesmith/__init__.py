"""Tunesmith: fine-tune language models, and prove what it did."""
