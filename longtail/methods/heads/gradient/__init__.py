"""Heads that are trained by gradient descent."""
