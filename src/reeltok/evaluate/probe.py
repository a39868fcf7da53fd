"""A linear probe: how much of what a clip shows can be read off its tokens.

Each clip becomes one vector (means and deviations of what the decoder is given, over the token
grid); a linear classifier is trained on most clips and asked about the others, fold by fold.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from reeltok.corpus.read import Corpus
from reeltok.corpus.row import tokens_of
from reeltok.data.find import find_clips
from reeltok.evaluate.clips import ScoredClip
from reeltok.evaluate.intervals import Estimate, estimate
from reeltok.tokenizer.contract import Tokenizer
from reeltok.tokens.record import Tokens

FOLDS = 5
DECAY = 1e-2  # on the weights: there are often more numbers than clips
STEPS = 200  # of L-BFGS, at most


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a probe found; `chance` is the share of the most frequent label."""

    accuracy: Estimate
    chance: float
    labels: dict[str, int]  # clips of each
    width: int  # numbers that stand for a clip
    left_out: dict[str, str] = field(default_factory=dict)


def read_labels(where: str, data: str | Path) -> dict[str, str]:
    """Labels by file name, from "list.csv:column"; the list may lie in the folder of the data.

    Raises FileNotFoundError, or ValueError where the column is not there.
    """
    name, colon, column = where.rpartition(":")
    if not colon or not name:
        raise ValueError(f"`labels` {where} names no column: write it as manifest.csv:column")
    places = [Path(name), Path(data) / name]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"there is no list of labels at {places[0]} or {places[1]}")
    listed = find_clips(path)
    found = list(dict.fromkeys(key for clip in listed for key in clip.row))
    if column not in found:
        raise ValueError(f"{path} has the columns {', '.join(found)}: {column!r} is none of them")
    return {clip.name: clip.row[column] for clip in listed if clip.row.get(column)}


def row_labels(corpus: Corpus, column: str) -> dict[str, str]:
    """Labels by clip, from a column of a corpus. ValueError where it has no such column."""
    columns = ["group", *corpus.manifest["columns"]]
    if column not in columns:
        raise ValueError(
            f"{corpus.place} has the columns {', '.join(columns)}: {column!r} is none of them"
        )
    found = {}
    for row in corpus:
        label = row.group if column == "group" else row.further.get(column)
        if label:
            found[row.source] = label
    return found


@torch.no_grad()
def describe_clip(tokenizer: Tokenizer, clip: ScoredClip) -> Float[Tensor, " n"]:
    """Mean and deviation over the token grid of each of the decoder's input channels."""
    return describe_tokens(tokenizer, tokenizer.encode(clip.video.tensor(device=tokenizer.device)))


@torch.no_grad()
def describe_tokens(tokenizer: Tokenizer, tokens: Tokens) -> Float[Tensor, " n"]:
    """The same of tokens that are there already."""
    z = tokens.latents
    if z is None:
        assert tokens.ids is not None
        z = tokenizer.lookup(tokens.ids)
    flat = z[0].flatten(1).float().cpu()
    return torch.cat([flat.mean(dim=1), flat.std(dim=1, correction=0)])


@dataclass(frozen=True, eq=False, kw_only=True)
class Described:
    """Clips as a probe takes them: a vector, a label and a source each.

    Clips of one source are never asked of a classifier that has seen another of them.
    """

    x: Float[Tensor, "b n"]
    labels: list[str]
    sources: list[str]
    left_out: dict[str, str] = field(default_factory=dict)  # clip -> why

    @classmethod
    def of(
        cls,
        windows: Mapping[str, Sequence[Tensor]],
        labels: Mapping[str, str],
        sources: Mapping[str, str],
        left_out: dict[str, str],
    ) -> "Described":
        """Of each clip the mean vector of its windows."""
        return cls(
            x=torch.stack([torch.stack([*parts]).mean(0) for parts in windows.values()]),
            labels=[labels[name] for name in windows],
            sources=[sources[name] for name in windows],
            left_out=left_out,
        )


def collect_features(
    tokenizer: Tokenizer, clips: Iterable[ScoredClip], labels: Mapping[str, str]
) -> Described:
    """The videos that have a label, by their path, or by their name where no other has that.

    ValueError where none has, or several are called by a name that has one and is no clip's path.
    """
    windows: dict[str, list[Tensor]] = {}
    named, sources, left_out = dict[str, str](), dict[str, str](), dict[str, str]()
    by_name, guessed = dict[str, set[str]](), set[str]()
    for clip in clips:
        base = Path(clip.file).name
        by_name.setdefault(base, set()).add(clip.file)
        label = labels.get(clip.file)
        if label is None and (label := labels.get(base)) is not None:
            guessed.add(clip.file)
        if label is None:
            left_out[clip.name] = "it has no label"
            continue
        named[clip.file], sources[clip.file] = label, clip.together
        windows.setdefault(clip.file, []).append(describe_clip(tokenizer, clip))
    for file in sorted(guessed):
        base = Path(file).name
        if base in by_name[base]:  # the label is that clip's
            del windows[file]
            left_out[file] = "it has no label"
        elif len(by_name[base]) > 1:
            raise ValueError(
                f"{' and '.join(sorted(by_name[base])[:2])} may both be meant by the label of "
                f"{base}: let the labels name clips by their paths"
            )
    if not windows:
        raise ValueError("no clip has a label: the list should name the files as the folder does")
    return Described.of(windows, named, sources, left_out)


def collect_rows(tokenizer: Tokenizer, corpus: Corpus, labels: Mapping[str, str]) -> Described:
    """The same from a corpus."""
    windows: dict[str, list[Tensor]] = {}
    sources, left_out = dict[str, str](), dict[str, str]()
    for row in corpus:
        if row.source in labels:
            tokens = tokens_of(row, corpus.tokenizer, tokenizer.scale).to(tokenizer.device)
            sources[row.source] = row.origin or row.source
            windows.setdefault(row.source, []).append(describe_tokens(tokenizer, tokens))
        else:
            left_out[row.source] = "it has no label"
    if not windows:
        raise ValueError("no clip has a label: the list should name the files as the corpus does")
    return Described.of(windows, labels, sources, left_out)


def run_probe(clips: Described, *, folds: int = FOLDS, seed: int = 0) -> Probe:
    """Accuracy over all clips, each asked of a classifier that has not seen any of its source.

    Labels of fewer sources than folds are left out. ValueError where fewer than two labels remain.
    """
    each = dict.fromkeys(zip(clips.labels, clips.sources, strict=True))
    counts = Counter(label for label, _ in each)
    kept = sorted(name for name, count in counts.items() if count >= folds)
    if len(kept) < 2:
        raise ValueError(
            f"a probe needs two labels of {folds} sources or more each (parts of one file are one "
            "source), found "
            f"{', '.join(f'{name} ({count})' for name, count in counts.most_common(5))}"
        )
    chosen = [i for i, name in enumerate(clips.labels) if name in kept]
    sources = [clips.sources[i] for i in chosen]
    x, y = clips.x[chosen], torch.tensor([kept.index(clips.labels[i]) for i in chosen])
    fold = assign_folds(y.tolist(), sources, folds, seed)
    right = torch.zeros(len(y))
    for number in range(folds):
        held = fold == number
        weights = fit_classifier(x[~held], y[~held], len(kept))
        right[held] = (weights(x[held]).argmax(dim=1) == y[held]).float()
    used = {name: clips.labels.count(name) for name in kept}
    return Probe(
        accuracy=estimate(right.tolist(), [1] * len(right), sources),
        chance=max(used.values()) / sum(used.values()),
        labels=used,
        width=x.shape[1],
        left_out={name: f"of only {n} sources" for name, n in counts.items() if n < folds},
    )


def assign_folds(y: Sequence[int], sources: Sequence[str], folds: int, seed: int) -> Tensor:
    """The fold of every clip, that of its source: each label is spread over all of them."""
    of_source = dict(reversed([*zip(sources, y, strict=True)]))  # the label of its first clip
    draw, fold = random.Random(seed), dict[str, int]()
    for label in sorted(set(y)):
        held = [name for name in dict.fromkeys(sources) if of_source[name] == label]
        draw.shuffle(held)
        fold |= {name: turn % folds for turn, name in enumerate(held)}
    return torch.tensor([fold[name] for name in sources])


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear classifier of vectors that are first made to have mean 0 and deviation 1.

    A number that never varied keeps its scale.
    """

    mean: Float[Tensor, " n"]
    std: Float[Tensor, " n"]
    weights: Float[Tensor, "n k"]
    bias: Float[Tensor, " k"]

    def __call__(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b k"]:
        return (x - self.mean) / self.std @ self.weights + self.bias


def fit_classifier(x: Float[Tensor, "b n"], y: Tensor, classes: int) -> LinearProbe:
    """Logistic regression with weight decay, to convergence."""
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    weights = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    held = LinearProbe(mean, std, weights, bias)
    descent = torch.optim.LBFGS([weights, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        value = F.cross_entropy(held(x), y) + DECAY * weights.square().sum() / 2
        value.backward()
        return value

    descent.step(loss)
    return LinearProbe(mean, std, weights.detach(), bias.detach())
