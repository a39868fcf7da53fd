"""Files, whoever wrote them: written whole or not at all, read without trust."""
