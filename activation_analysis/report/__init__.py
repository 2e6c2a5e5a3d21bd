"""Results as text and as a folder of files."""
