"""Sources of images: one module per kind, each with a function that returns a Source."""
