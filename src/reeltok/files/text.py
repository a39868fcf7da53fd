"""Words of others: made fit to print, and what they were probably meant to be."""

from collections.abc import Iterable


def printable(text: object) -> str:
    """`text` as one line that a terminal shows and does not obey.

    Names in files may hold anything: line breaks, control sequences, marks that turn the direction
    of writing. Whatever is not a visible character is written as an escape, such as \\x1b or \\n.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text)
    )


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """What `word` was probably meant to be: what begins with it, else what looks much like it.

    `cutoff`, 0 to 1, is how much alike the two must look (difflib's ratio).
    """
    from difflib import get_close_matches

    known = list(known)
    begun = [name for name in known if word and name.startswith(word)]
    return next(iter(begun or get_close_matches(word, known, n=1, cutoff=cutoff)), None)


def hint(word: str, known: Iterable[str]) -> str:
    """What to write instead of `word`: the nearest that is known, or all there are."""
    near = nearest(word, known := list(known))
    return f"did you mean {near!r}?" if near else f"there are {', '.join(known) or 'none'}"
