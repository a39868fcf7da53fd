"""The contract of every tokenizer, and what does not depend on its network."""
