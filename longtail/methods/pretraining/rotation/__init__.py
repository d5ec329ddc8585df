"""Rotation prediction (Gidaris et al., ICLR 2018)."""

from longtail.methods.pretraining import PretrainingEntry

PRETRAINING = PretrainingEntry(implementation="longtail.methods.pretraining.rotation.objective:Rotation")
