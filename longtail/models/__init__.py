"""Backbones and classification heads."""
