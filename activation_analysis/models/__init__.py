"""Language models: finding, loading and recording them. Knows nothing of statistics."""
