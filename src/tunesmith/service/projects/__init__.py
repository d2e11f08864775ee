"""Projects, the people in them, their keys, and what they may use."""
