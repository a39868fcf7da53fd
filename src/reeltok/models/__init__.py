"""The families of tokenizer, a file each, their presets, and the conversion of foreign weights."""
