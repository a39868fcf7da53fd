"""The record of a tokenized video, and its file."""
