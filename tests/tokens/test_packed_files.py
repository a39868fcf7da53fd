"""Packed .reel files: streams, ranges, versions, and what is wrong with damaged ones."""

import json
import sys
from contextlib import closing
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors import safe_open
from small_packing import WEIGHTS, small_packing, sparse_ids

from reeltok.files.hashes import hash_parts
from reeltok.tokens.header import SEGMENT, Entry, header_bytes
from reeltok.tokens.packing import segments
from reeltok.tokens.packing.model import NAME
from reeltok.tokens.record import Tokens
from reeltok.tokens.reel import Reel, ReelWriter, load_tokens, save_tokens
from reeltok.tokens.source import ReelSource

pytest.importorskip("constriction")
MODEL = small_packing()
STEPS = 2 * SEGMENT + 5


def clip(steps: int = STEPS, **changes) -> Tokens:
    given = {
        "ids": sparse_ids(1, steps, 4, 6),
        "frames": 4 * steps - 3,
        "height": 30,
        "width": 45,
        "fps": 25.0,
        "model": "small",
        "weights": WEIGHTS,
        "vocabulary": 1024,
    }
    return Tokens(**{**given, **changes})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a packed file and its packing model."""
    folder = tmp_path_factory.mktemp("packed")
    MODEL.save(folder / NAME)
    save_tokens(clip(), folder / "clip.reel", packing=MODEL)
    return folder


@pytest.fixture
def packed(saved: Path, tmp_path: Path) -> Path:
    """A packed file beside its packing model, to be changed at will."""
    return copytree(saved, tmp_path, dirs_exist_ok=True) / "clip.reel"


def version(path: Path) -> str:
    with safe_open(path, "np") as file:
        return file.metadata()["version"]


def test_a_packed_file_holds_the_same_ids_in_fewer_bytes(packed: Path) -> None:
    save_tokens(clip(), packed.with_name("plain.reel"))
    tokens = load_tokens(packed, packing=packed.with_name(NAME))
    assert torch.equal(tokens.ids, clip().ids)
    assert tokens.bits_per_pixel == clip().bits_per_pixel
    with Reel(packed) as small, Reel(packed.with_name("plain.reel")) as plain:
        assert (small.packed, plain.packed) == (True, False)
        assert small.stored_bits == 8 * small.about.payload.bytes < 0.6 * plain.stored_bits
        assert plain.stored_bits == STEPS * 24 * 10
        assert small.bits_per_pixel == plain.bits_per_pixel
    assert (version(packed), version(packed.with_name("plain.reel"))) == ("2", "1")


@pytest.mark.parametrize("parts", [[1], [3, 7], [SEGMENT], [SEGMENT + 1, 1], [STEPS]])
def test_a_stream_makes_the_same_file(packed: Path, parts: list[int]) -> None:
    whole, start, turn = clip(), 0, 0
    with ReelWriter(packed.with_name("stream.reel"), packing=MODEL) as writer:
        while start < STEPS:
            stop = min(STEPS, start + parts[turn % len(parts)])
            writer.write(whole.part(start, stop))
            start, turn = stop, turn + 1
    assert packed.with_name("stream.reel").read_bytes() == packed.read_bytes()


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (3, 9), (15, 17), (16, 32), (30, 37), (36, 37), (0, 37), (0, 0)]
)
def test_any_range_is_read(packed: Path, start: int, stop: int) -> None:
    with Reel(packed, packing=packed.with_name(NAME)) as reel:
        part = reel.part(start, stop, frames=(start, stop))
        assert torch.equal(part.ids, clip().ids[:, start:stop])


def test_a_range_reads_its_segments_alone(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    once = segments.Unpacker.segment

    def counted(self: segments.Unpacker, number: int) -> torch.Tensor:
        read.append(number)
        return once(self, number)

    monkeypatch.setattr(segments.Unpacker, "segment", counted)
    with Reel(packed, packing=packed.with_name(NAME)) as reel:
        assert len(list(reel.parts(8))) == 5
        assert sorted(set(read)) == [0, 1, 2]
        read.clear()
        reel.part(17, 20)
        assert read == [1]


def test_several_clips_are_packed_together(packed: Path) -> None:
    tokens = clip(5, ids=sparse_ids(3, 5, 4, 6, seed=2))
    save_tokens(tokens, packed, packing=MODEL)
    assert torch.equal(load_tokens(packed, packing=packed.with_name(NAME)).ids, tokens.ids)


def test_ids_that_do_not_pack_are_stored_plainly(packed: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    tokens = clip(ids=torch.randint(512, 1024, (1, STEPS, 4, 6), generator=draw))
    save_tokens(tokens, packed, packing=MODEL)
    assert torch.equal(load_tokens(packed, packing=packed.with_name(NAME)).ids, tokens.ids)
    with Reel(packed) as reel:
        assert reel.about.payload.bytes == STEPS * 24 * 10 // 8 + 3  # a byte for each segment


def test_the_count_of_damaged_frames_is_of_the_second_version(tmp_path: Path) -> None:
    save_tokens(clip(5, damaged=3), tmp_path / "clip.reel")
    assert version(tmp_path / "clip.reel") == "2"
    with Reel(tmp_path / "clip.reel") as reel:
        assert reel.damaged == 3


def test_earlier_files_with_damaged_frames_are_read(tmp_path: Path) -> None:
    path = tmp_path / "clip.reel"
    save_tokens(clip(5, damaged=3), path)
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"version": "2"', b'"version": "1"'))
    assert version(path) == "1"
    assert load_tokens(path).damaged == 3


# -- what is wrong ----------------------------------------------------------------------------


def test_without_the_packing_model_it_says_where_that_is(packed: Path) -> None:
    with Reel(packed) as reel:
        assert reel.info.frames == clip().frames
        with pytest.raises(ValueError, match=r"packed by a packing model .* beside the weights"):
            reel.tokens()
    small_packing(skip=0).save(packed.with_name(NAME))
    with pytest.raises(ValueError, match=r"clip\.reel was packed by a packing model"):
        load_tokens(packed, packing=packed.with_name(NAME))


def test_without_constriction_it_says_what_to_install(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with Reel(packed, packing=packed.with_name(NAME)) as reel:
        assert reel.packed
        with pytest.raises(ValueError, match=r"is packed: pip install 'reeltok\[codec\]'"):
            reel.tokens()
    with pytest.raises(ValueError, match=r"needs constriction: pip install"):
        save_tokens(clip(), packed, packing=MODEL)


@pytest.mark.usefixtures("types_unchecked")
def test_ids_of_another_kind_are_not_packed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is for ids below 1024, these are below 2048"):
        save_tokens(clip(vocabulary=2048), tmp_path / "clip.reel", packing=MODEL)
    flat = clip(5, ids=sparse_ids(1, 5))
    with pytest.raises(ValueError, match="steps, rows and columns are packed"):
        save_tokens(flat, tmp_path / "clip.reel", packing=MODEL)
    assert not (tmp_path / "clip.reel").exists()


def test_every_changed_byte_is_seen(packed: Path) -> None:
    """Packed ids lie under the same hashes as plain ones."""
    whole, model = packed.read_bytes(), packed.with_name(NAME)
    with closing(ReelSource(packed)) as source:
        start, stop = source.start, len(whole)
    places = [*range(0, start, 37), *range(start, stop, 5), stop - 1]
    for place in places:
        packed.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"clip\.reel (was altered|is cut off|is not a)"):
            load_tokens(packed, packing=model)
    for length in (start + 3, stop - 1):
        packed.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is cut off"):
            load_tokens(packed, packing=model)


def resaved(path: Path, change) -> None:
    """The same file after `change(about, tensors)`, with hashes that are right."""
    with closing(ReelSource(path)) as source:
        about = json.loads(source.read_metadata(source.read_json()["__metadata__"])["about"])
        tensors = {name: source.raw(e, 0, e.stop - e.start) for name, e in source.entries.items()}
        entries = dict(source.entries)
    change(about, tensors)
    about["payload"]["bytes"] = len(tensors["ids"])
    about["payload"]["sha256"] = hash_parts([tensors["ids"]])
    tensors["blocks"] = bytes.fromhex(hash_parts([tensors["ids"]]))
    about["tensors"] = {n: hash_parts([t]) for n, t in tensors.items() if n != "ids"}
    entries["ids"] = Entry("U8", (len(tensors["ids"]),), 0, len(tensors["ids"]))
    entries["segments"] = Entry(
        "I64", (len(tensors["segments"]) // 8,), 0, len(tensors["segments"])
    )
    order = ["segments", *(name for name in entries if name != "segments")]
    head = header_bytes({name: entries[name] for name in order}, about)
    path.write_bytes(head + b"".join(tensors[name] for name in order))


def ends(*values: int) -> bytes:
    return torch.tensor(values).numpy().tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda about, tensors: tensors.update(ids=b"\x02" + tensors["ids"][1:]),
        lambda about, tensors: tensors.update(ids=b"\x00" + tensors["ids"][1:]),
        lambda about, tensors: tensors.update(segments=ends(1, 2, 3)),
        lambda about, tensors: tensors.update(segments=ends(9, 5, len(tensors["ids"]))),
        lambda about, tensors: tensors.update(segments=ends(-1, 5, len(tensors["ids"]))),
        lambda about, tensors: tensors.update(segments=ends(5, len(tensors["ids"]))),
        lambda about, tensors: tensors.update(ids=tensors["ids"] * 40),
        lambda about, tensors: about.update(grid=[STEPS, 4, 7]),
        lambda about, tensors: about.update(grid=[STEPS, 4, 2**20]),
        lambda about, tensors: about.update(grid=[STEPS, 24]),
        lambda about, tensors: about.update(vocabulary=2048, bits=11),
        lambda about, tensors: about.update(vocabulary=1023, bits=10),
        lambda about, tensors: about["packing"].update(steps=8),
        lambda about, tensors: about.update(packing={"model": "x"}),
        lambda about, tensors: about.pop("packing"),
        lambda about, tensors: about.update(channels=4),
    ],
)
def test_files_that_contradict_themselves_are_refused(packed: Path, change) -> None:
    """By someone who knows the format: every hash is right, what is said is not."""
    resaved(packed, change)
    with pytest.raises(ValueError, match=r"clip\.reel was altered after it was written"):
        load_tokens(packed, packing=packed.with_name(NAME))


def test_a_file_with_the_right_hashes_is_read(packed: Path) -> None:
    resaved(packed, lambda about, tensors: None)
    assert torch.equal(load_tokens(packed, packing=packed.with_name(NAME)).ids, clip().ids)
