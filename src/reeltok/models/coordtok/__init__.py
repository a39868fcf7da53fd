"""CoordTok: a long clip as three planes of cells, decoded at any coordinates."""
