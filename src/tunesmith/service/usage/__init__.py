"""What a project has used, and what it costs."""
