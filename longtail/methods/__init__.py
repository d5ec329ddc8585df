"""Methods of the field: objectives, heads, DLSA and IP-DPP."""
