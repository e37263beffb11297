"""Weights in the files of others: reading them, renaming what is in them, and keeping them in files of ours."""
