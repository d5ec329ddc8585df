"""Measures of long-tailed recognition, computed from prediction tables without torch."""
