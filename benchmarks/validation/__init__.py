"""Simulations that show the error rates: `python -m benchmarks.validation`, docs/validation.md."""
