"""A corpus that is given to a generator: its classes, its windows and its rate are as asked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_priors import SMALL

from reeltok.generate import flow
from reeltok.generate.recipes import GeneratorRecipe, prior_cpu, sit_cpu
from reeltok.generate.sit import Flow, Statistics
from reeltok.models.vidtok.network import VidTok
from reeltok.nn.quantizers import GaussianConfig
from reeltok.parallel import Rank
from reeltok.train.checkpoint import Saver
from reeltok.train.recipe import change
from reeltok.video.record import Video, write

pytest.importorskip("pyarrow", reason="needs pyarrow (extra corpus)")
AT = Rank(device=torch.device("cpu"))
Build = Callable[..., Path]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Four clips of 15 frames, whose groups say something else than their actions."""
    rows = ["file,group,action"]
    for number in range(4):
        frames = torch.full((15, 16, 16, 3), 50 * number, dtype=torch.uint8)
        write(Video.of(frames, fps=10), tmp_path / f"{number}.mkv", lossless=True)
        rows.append(f"{number}.mkv,{'one' if number < 2 else 'two'},{['walk', 'run'][number % 2]}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "list.csv"


@pytest.fixture
def build(listed: Path, tmp_path: Path) -> Build:
    """Builds a corpus of windows of five frames with a tokenizer."""
    from reeltok.corpus.engines import Engine
    from reeltok.corpus.opening import LoadedTokenizer
    from reeltok.corpus.plan import WindowCoding
    from reeltok.corpus.run import build_corpus, plan_corpus
    from reeltok.corpus.shaping import Shaping

    def made(tokenizer: VidTok, name: str, column: str | None = None, **shaped: float) -> Path:
        opener, engine = LoadedTokenizer(tokenizer=tokenizer), Engine(device="cpu", jobs=1)
        shaping = Shaping(frames=5, size=(16, 16), **shaped)
        coding = WindowCoding(dtype="float32")
        plan = plan_corpus(listed, opener, shaping=shaping, coding=coding, column=column)
        build_corpus(plan, tmp_path / name, opener, engine=engine)
        return tmp_path / name

    return made


def recipe_of(**changes: object) -> GeneratorRecipe:
    small = replace(prior_cpu(), settings=SMALL, given=0)
    window = {"data.windows.0.frames": "5", "data.windows.0.size": "16", "data.holdout": "0"}
    return change(small, window | {key: str(value) for key, value in changes.items()})


def examples_of(
    recipe: GeneratorRecipe, tokenizer: VidTok, data: Path, out: Path
) -> tuple[int, tuple[str, ...]]:
    """How many examples there are, and their classes."""
    from reeltok.generate.examples import open_examples, split_rows
    from reeltok.generate.training import generator_config

    corpus = open_examples(recipe, tokenizer, generator_config(recipe, tokenizer), data, out, AT)
    split = split_rows(recipe, corpus)
    return len(split.train), split.classes


def test_classes_are_of_the_column_that_is_asked(
    plain: VidTok, listed: Path, build: Build, tmp_path: Path
) -> None:
    corpus, out = build(plain, "corpus"), tmp_path / "run"
    asked = recipe_of(classes="true", **{"data.column": "action"})
    wanted = (12, ("run", "walk"))
    assert examples_of(asked, plain, listed, out) == wanted
    assert examples_of(asked, plain, corpus, tmp_path) == wanted
    assert examples_of(asked, plain, out / "corpus", tmp_path) == wanted
    assert examples_of(asked, plain, build(plain, "named", "action"), tmp_path) == wanted
    assert examples_of(recipe_of(classes="true"), plain, corpus, tmp_path) == (12, ("one", "two"))
    some = change(asked, {"classes": "false", "groups": '["walk"]'})
    assert examples_of(some, plain, corpus, tmp_path) == (6, ())
    lost = recipe_of(**{"data.column": "colour"})
    with pytest.raises(ValueError, match=r"does not hold the column 'colour' \(action\): leave"):
        examples_of(lost, plain, corpus, tmp_path)


def test_a_corpus_names_its_tokenizer_where_that_of_the_recipe_is_not_here(
    plain: VidTok, build: Build, tmp_path: Path
) -> None:
    from reeltok.generate.training import train_generator

    asked, corpus = recipe_of(tokenizer="coordtok-default"), build(plain, "corpus")
    said = f"of {plain.name}, and the recipe has tokenizer=coordtok-default, .* give `--set "
    with pytest.raises(ValueError, match=f"{said}tokenizer={plain.name}`"):
        train_generator(asked, data=corpus, out=tmp_path / "run", device="cpu")
    with pytest.raises(FileNotFoundError, match="coordtok-default has no published weights"):
        train_generator(asked, data=tmp_path, out=tmp_path / "run", device="cpu")


def test_rows_are_chosen_without_their_ids_and_laid_out_row_by_row(
    plain: VidTok, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reeltok.corpus.read import Corpus
    from reeltok.corpus.shard import FileReader
    from reeltok.generate import examples
    from reeltok.generate.training import generator_config

    asked, corpus, read = recipe_of(), Corpus(build(plain, "corpus")), list[object]()
    wanted = torch.stack([row.ids.flatten() for row in corpus if row.ids is not None])
    whole = FileReader.group
    spied = lambda reader, number, *columns: read.append(columns) or whole(reader, number, *columns)
    monkeypatch.setattr(FileReader, "group", spied)
    split = examples.split_rows(asked, corpus)
    assert read[0] == (("fps", "frames", "group", "height", "origin", "width"),)
    assert len(read) < 3, "all others in one go; the checks of types ask for a row"
    config = generator_config(asked, plain)
    found = examples.ids_of(split.train, split, corpus, plain, asked, config)
    assert torch.equal(found.ids, wanted)
    assert found.labels.tolist() == [0] * 12


def test_rows_held_out_are_none_of_those_to_train_on(plain: VidTok, build: Build) -> None:
    from reeltok.corpus.read import Corpus
    from reeltok.generate import examples

    corpus = Corpus(build(plain, "corpus"))
    split = examples.split_rows(recipe_of(**{"data.holdout": 0.4}), corpus)
    train, held = ({row.id for row in rows} for rows in (split.train, split.held))
    assert train
    assert held
    assert len(train | held) == len(train) + len(held) == len(corpus)
    assert {row.origin for row in split.train}.isdisjoint(row.origin for row in split.held)
    assert [row.group for row in split.train] == split.train.groups
    none = examples.split_rows(recipe_of(), corpus)
    assert (len(none.held), none.judged == split.judged) == (0, False)


def test_parts_are_laid_out_one_after_another() -> None:
    from reeltok.generate.examples import laid_out

    parts = [{"ids": torch.full((2, 3), n), "labels": torch.tensor([n, n])} for n in range(3)]
    found = laid_out(iter(parts), 4)
    assert found["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(found["ids"], torch.cat([part["ids"] for part in parts]))
    assert laid_out([], 4) == {}


def test_a_corpus_that_was_begun_before_columns_were_kept_goes_on(
    plain: VidTok, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reeltok.corpus.plan import make_plan
    from reeltok.generate import examples
    from reeltok.generate.training import generator_config

    asked, out = recipe_of(classes="true", **{"data.column": "action"}), tmp_path / "run"
    with monkeypatch.context() as patch:
        before = lambda *args, column, **more: make_plan(*args, **more)
        patch.setattr(examples, "make_plan", before)
        examples_of(asked, plain, listed, out)
    ask = (asked, plain, generator_config(asked, plain), listed, out, AT)
    corpus = examples.open_examples(*ask, resume=True)
    assert "column" not in corpus.manifest
    assert examples.split_rows(asked, corpus).classes == ("run", "walk")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"every": 15}, "was built with every=5, and the recipe has every=15: set it as the"),
        ({"most": 1}, "was built with most=null, and the recipe has most=1: set it as the"),
    ],
)
def test_windows_that_a_corpus_does_not_hold_are_refused(
    plain: VidTok, build: Build, tmp_path: Path, asked: dict[str, int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        examples_of(recipe_of(**asked), plain, build(plain, "corpus"), tmp_path)
    same = build(plain, "same", stride=asked.get("every"), most=asked.get("most"))
    assert examples_of(recipe_of(**asked), plain, same, tmp_path) == (4, ())
    assert examples_of(recipe_of(), plain, same, tmp_path) == (4, ())  # nothing was asked


@pytest.fixture
def continuous(plain: VidTok) -> VidTok:
    return VidTok(replace(plain.config, quantizer=GaussianConfig(channels=3)), "kl").eval()


def test_windows_that_only_the_recipe_came_with_are_left_out(
    continuous: VidTok, build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = build(continuous, "corpus")
    changes = {"data.windows.0.frames": "5", "data.windows.0.size": "16", "data.holdout": "0"}
    recipe = change(replace(sit_cpu(), settings={**SMALL, "patch": 1}), changes)
    assert examples_of(recipe, continuous, corpus, tmp_path) == (12, ())
    said = "was built with every=5: the recipe's own every=32 is left out"
    assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"every=5, and the recipe has every=31"):
        examples_of(change(recipe, {"every": "31"}), continuous, corpus, tmp_path)


def test_a_corpus_of_refined_latents_is_said(
    plain: VidTok, build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps in (0, 2):
        corpus = build(plain.under(refine=steps), str(steps))
        assert examples_of(recipe_of(), plain, corpus, tmp_path) == (12, ())
        found = "was built with refine=2: frames that are given are not" in capsys.readouterr().err
        assert found == (steps > 0)


def test_statistics_are_not_of_a_corpus_at_another_rate(
    continuous: VidTok, build: Build, tmp_path: Path
) -> None:
    from reeltok.generate.statistics import measure_flow

    continuous.save_pretrained(tmp_path / "tokenizer")
    config = flow.config_for(continuous, frames=5, size=(16, 16), fps=10.0, patch=1, **SMALL)
    folder = flow.save(Flow(config), tmp_path / "model")
    found = measure_flow(folder, build(continuous, "same"), out=tmp_path / "out")
    assert found.examples == 12
    slow = build(continuous, "slow", fps=5.0)
    before = (tmp_path / "out" / "config.json").read_bytes()
    for out in (None, tmp_path / "other"):
        with pytest.raises(ValueError, match="has the statistics of its latents, with which its"):
            measure_flow(tmp_path / "out", build(continuous, "again"), out=out)
    assert (tmp_path / "out" / "config.json").read_bytes() == before
    assert measure_flow(tmp_path / "out", tmp_path / "again", replace_known=True).examples == 12
    with pytest.raises(ValueError, match="sit-push does not lie in a folder of its own"):
        measure_flow("sit-push", slow, replace_known=True)
    with pytest.raises(ValueError, match="holds windows at 5 Hz, and the generator makes 10"):
        measure_flow(folder, slow, out=tmp_path / "other")


def test_a_run_that_goes_on_keeps_its_statistics_and_its_classes(
    continuous: VidTok, build: Build, tmp_path: Path
) -> None:
    from reeltok.corpus.read import Corpus
    from reeltok.generate.training import begun_config, generator_config, make

    changes = {"data.windows.0.frames": "5", "data.windows.0.size": "16", "data.holdout": "0"}
    recipe = change(replace(sit_cpu(), settings={**SMALL, "patch": 1}, classes=True), changes)
    config, corpus = generator_config(recipe, continuous), Corpus(build(continuous, "corpus"))
    first = make(recipe, config, corpus, continuous, AT).task
    assert first.model.config.classes == ("one", "two")
    older = Statistics(mean=((0.5,) * 3,), std=((2.0,) * 3,))
    first.model.config = replace(first.model.config, statistics=older)
    first.save(tmp_path / "run" / "model")
    Saver(tmp_path / "run").save(1, {"model.bias": torch.zeros(1)}, {})
    begun = begun_config(tmp_path / "run", type(config))
    again = make(recipe, config, corpus, continuous, AT, begun).task
    assert again.statistics == again.model.config.statistics == older
    other = replace(begun, classes=("cat", "dog"))
    with pytest.raises(ValueError, match=r"are one, two, those of the run cat, dog: resume it on"):
        make(recipe, config, corpus, continuous, AT, other)
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume"):
        begun_config(tmp_path, type(config))
