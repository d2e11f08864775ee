"""Tables, connections to them, and how older databases become what is wanted now."""
