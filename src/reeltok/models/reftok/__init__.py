"""RefTok: blocks of frames, encoded and decoded beside an unquantized reference frame."""
