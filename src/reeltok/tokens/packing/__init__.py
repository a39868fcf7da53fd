"""Lossless packing of ids: a small network says how likely each id is, a range coder uses that."""
