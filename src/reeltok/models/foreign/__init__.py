"""Tokenizers of other libraries behind the same contract; docs/foreign.md says how to name them."""
