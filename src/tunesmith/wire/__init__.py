"""The JSON of OpenAI's chat interface, as far as Tunesmith speaks it, and a small client for it."""
