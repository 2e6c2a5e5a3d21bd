"""Activations and a contrast in, frozen results out; no model, no file, no figure."""
