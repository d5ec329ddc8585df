"""The training engine: schedules, progress, checkpoints and one loop for all objectives."""
