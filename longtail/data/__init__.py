"""Datasets, long-tailed splits, samplers and batches."""
