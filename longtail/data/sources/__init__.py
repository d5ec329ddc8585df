"""Where images come from: one module a kind of source, each with a function that returns a Source."""
