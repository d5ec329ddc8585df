"""Errors, random streams, progress, and the strict binding of parameters."""
