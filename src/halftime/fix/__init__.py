"""fix: reversible changes to a pipeline, one a file."""
