"""One module a classifier repair: ``fit(inputs)`` runs the estimator on the features and says what came of it."""
