"""What the commands do, by subject. `reeltok.cli.main` holds the table that names them.

A command is a typed function: its signature and docstring are its help, and it returns a `Report`.
Heavy imports (torch above all) stand inside the functions, so that help is quick.
"""
