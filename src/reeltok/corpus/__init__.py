"""Data sets as tokens: built once by any number of processes, read by whoever trains on them.

>>> from reeltok.corpus import Corpus
>>> corpus = Corpus("tokens/")  # made by `reeltok corpus build clips/ tokens/`
>>> corpus[0].ids, corpus[0].caption

Names are fetched when first used, as in the package's own `__init__`. Needs pyarrow (extra
`corpus`).
"""

from typing import TYPE_CHECKING

from reeltok.lazy import fetch_from

_HOME = {
    "Batch": "row",
    "Batches": "batches",
    "Bucket": "shaping",
    "Built": "run",
    "Cluster": "cluster",
    "Corpus": "read",
    "Engine": "engines",
    "LoadedTokenizer": "opening",
    "NamedTokenizer": "opening",
    "Plan": "plan",
    "Row": "row",
    "Shaping": "shaping",
    "WindowCoding": "plan",
    "build_corpus": "run",
    "finish_corpus": "finish",
    "plan_corpus": "run",
}
__all__ = list(_HOME)

if TYPE_CHECKING:
    from reeltok.corpus.batches import Batches as Batches
    from reeltok.corpus.cluster import Cluster as Cluster
    from reeltok.corpus.engines import Engine as Engine
    from reeltok.corpus.finish import finish_corpus as finish_corpus
    from reeltok.corpus.opening import LoadedTokenizer as LoadedTokenizer
    from reeltok.corpus.opening import NamedTokenizer as NamedTokenizer
    from reeltok.corpus.plan import Plan as Plan
    from reeltok.corpus.plan import WindowCoding as WindowCoding
    from reeltok.corpus.read import Corpus as Corpus
    from reeltok.corpus.row import Batch as Batch
    from reeltok.corpus.row import Row as Row
    from reeltok.corpus.run import Built as Built
    from reeltok.corpus.run import build_corpus as build_corpus
    from reeltok.corpus.run import plan_corpus as plan_corpus
    from reeltok.corpus.shaping import Bucket as Bucket
    from reeltok.corpus.shaping import Shaping as Shaping

__getattr__ = fetch_from("reeltok.corpus", _HOME)
