"""VidTok: convolutions over space, time and both, causal or not."""
