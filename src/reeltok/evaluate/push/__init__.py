"""Judging videos of the pushing world: where gripper and objects are, and what else changed."""
