"""Text of others, made fit to print."""


def printable(text: object) -> str:
    """`text` as one line that a terminal shows and does not obey.

    Names in files may hold anything: line breaks, control sequences, marks that turn the direction
    of writing. Whatever is no visible character is written as an escape, such as \\x1b or \\n.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)
    )
