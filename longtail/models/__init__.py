"""Backbones and head layers."""
