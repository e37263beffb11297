"""Recipes that make the weights."""
