"""Generators that run on tokens."""
