"""Browsers: people who sign in with a key, or through their company's provider."""
