"""Rows of a dataset in other formats, and back."""
