"""Telling others of what happens in a project: who wants to hear, and how they are reached."""
