"""What can be judged: our tokenizers, those of other libraries, codecs, and a resize."""
