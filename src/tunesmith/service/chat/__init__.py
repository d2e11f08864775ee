"""Questions to models: conversations, completions, vectors, labels."""
