"""Numbers from arrays: one statistical idea per file, prompts on axis 0, units on axis 1."""
