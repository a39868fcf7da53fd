"""Judging: metrics, protocols, peers and the report."""
