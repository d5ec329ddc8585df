"""Artifacts on disk: atomic, byte-stable, and verified when they are read."""
