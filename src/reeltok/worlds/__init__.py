"""Simulated worlds: robot video with true actions and positions, as much as one wants."""
