"""A world to drive: actions go to a prior, which predicts the next frames of a pushing robot.

`world` predicts, `sessions` keep what each visitor has driven, `server` is the page, which needs
no web framework.
"""
