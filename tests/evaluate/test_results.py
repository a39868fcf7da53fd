"""Result records and the tables that are made of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reeltok.evaluate.notes import note_left_out
from reeltok.evaluate.protocols import PROTOCOLS, Protocol
from reeltok.evaluate.results import (
    METRICS,
    Result,
    build_table,
    find_metric,
    format_value,
)
from reeltok.evaluate.scores import DEFAULT_METRICS, FRAME_METRICS, ClipScore, Scores, difference

SHARED = PROTOCOLS["shared-eval"]


def gather(level: float, count: int = 4, **hashes: str) -> Scores:
    held = Scores({"fvd-i3d": "FVD has no weights: put i3d.pt into the cache"})
    for i in range(count):
        name = f"clip{i}"
        held.add(
            ClipScore(
                name=name,
                sha256=hashes.get(name, f"hash{i}"),
                frames=17,
                pixels=17 * 64,
                values={"psnr": level + i, "ssim": 0.9},
                psnr=[level + i] * 17,
                bits=100,
                seconds={"encode": 0.5},
            )
        )
    return held


def result(model: str = "ours", level: float = 30, **more: object) -> Result:
    scores = more.pop("scores", None) or gather(level)
    options = {"model": model, "kind": "tokenizer", "protocol": SHARED} | more
    return Result.of(scores, **options)  # type: ignore[arg-type]


def test_a_result_is_complete_and_survives_its_file(tmp_path: Path) -> None:
    made = result(weights="ab" * 32, extra={"parameters": 5e6}, settings={"dtype": "float32"})
    made.save(tmp_path / "ours.json")
    again = Result.load(tmp_path / "ours.json")
    assert again == made
    assert again.protocol == SHARED
    assert again.summary["psnr"].mean == 31.5
    assert again.summary["bits_per_pixel"].mean == pytest.approx(100 / (17 * 64))
    assert again.definitions["psnr"].startswith("per frame")
    assert {"cpu", "cores", "gpu", "torch", "reeltok"} <= again.machine.keys()
    assert [clip["sha256"] for clip in again.clips] == [f"hash{i}" for i in range(4)]
    assert difference(made.scores(), result(level=31).scores(), "psnr").mean == 1
    assert [p.name for p in tmp_path.iterdir()] == ["ours.json"]


def test_speeds_of_unlike_machines_are_told_apart() -> None:
    ours, theirs = result(), result("theirs")
    assert not any("machines" in note for note in build_table([ours, theirs]).notes)
    elsewhere = replace(theirs, machine=theirs.machine | {"threads": "64", "gpu": "H200"})
    unknown = replace(theirs, model="old", machine={})
    note = build_table([ours, elsewhere, unknown]).notes[-1]
    assert note.startswith("Speeds and memory are of unlike machines, so do not compare them: ours")
    assert note.endswith(", 64 threads, GPU H200.")


def test_another_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"model": "x"}')
    with pytest.raises(ValueError, match=r"a\.json is not a result of reeltok: kind: "):
        Result.load(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("not json")
    with pytest.raises(ValueError, match=r"b\.json is not a result of reeltok"):
        Result.load(tmp_path / "b.json")


def test_odd_fields_of_clips_are_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    result().save(path)
    whole = json.loads(path.read_text())
    odd = [
        *({"frames": value} for value in (0, -1, 10**30, "x", None, 1.5)),
        *({"pixels": value} for value in (0, [])),
        *({"values": value} for value in ({"psnr": 1e308}, {"psnr": "x"}, {"psnr": None}, [])),
        *({"seconds": {"encode": value}} for value in (-1, float("inf"), {})),
        *(
            {"bits": -1},
            {"stored_bits": 2**60},
            {"psnr": [None]},
            {"notes": 5},
            {"name": 5},
            {"sha256": 5},
            {"more": 1},
        ),
        {"name": whole["clips"][1]["name"]},
    ]
    for changes in odd:
        clips = [{**whole["clips"][0], **changes}, *whole["clips"][1:]]
        path.write_text(json.dumps({**whole, "clips": clips}))
        with pytest.raises(ValueError, match=r"a\.json") as caught:
            Result.load(path)
        assert type(caught.value) is ValueError
        assert "\n" not in str(caught.value)
    for name in whole["clips"][0]:
        clips = [{k: v for k, v in clip.items() if k != name} for clip in whole["clips"]]
        path.write_text(json.dumps({**whole, "clips": clips}))
        if name == "stored_bits":  # results made before there was packing have none
            assert Result.load(path).summary == result().summary
            continue
        with pytest.raises(ValueError, match=rf"a\.json is not a result .* clips.0.{name}"):
            Result.load(path)


def test_every_metric_is_defined_and_printed() -> None:
    for key in (*FRAME_METRICS, *DEFAULT_METRICS):
        assert find_metric(key).definition
        assert find_metric(key).better
    assert find_metric("fvd-i3d-12345678-n22") == METRICS["fvd"]
    assert find_metric("lpips-alex-text") == METRICS["lpips"]
    assert find_metric("parameters").definition == ""


def test_a_table_prints_intervals_and_no_weights() -> None:
    text = build_table([result(), result("peer", 28, extra={"utilization": 0.5})]).text()
    assert text.splitlines()[0] == "shared-eval (version 1), 4 clips"
    assert "| ours | 31.50 [30.50, 32.50] |" in text
    assert "| 0.5000 |" in text
    assert text.count("no weights |") == 2
    assert "fvd-i3d: FVD has no weights: put i3d.pt into the cache" in text
    assert build_table([result()], ["psnr"]).columns == ["psnr"]


def test_mixed_protocols_are_refused_by_their_fields() -> None:
    other = result("b", protocol=replace(SHARED, frames=9, crop=128))
    with pytest.raises(
        ValueError, match=r"ours and b do not .* frames \(17 and 9\), crop \(256 and"
    ):
        build_table([result(), other])
    with pytest.raises(ValueError, match=r"latent \('mode' and 'sample'\)"):
        build_table([result(), result("b", protocol=replace(SHARED, latent="sample"))])
    with pytest.raises(ValueError, match=r"the originals of 1 clips, such as clip2"):
        build_table([result(), result("b", scores=gather(30, clip2="other"))])
    with pytest.raises(ValueError, match="at least one result"):
        build_table([])


def test_kinds_of_tokenizers_compare_where_they_were_given_the_same_clips() -> None:
    assert build_table([result(), result("b", causal=False)]).clips == 4
    pair = [result(name, protocol=PROTOCOLS["vidtok"], causal=name == "a") for name in "ab"]
    with pytest.raises(ValueError, match=r"in frames \(17 and 16\): vidtok gives causal .* other"):
        build_table(pair)
    assert build_table(pair[1:] * 2).clips == 4


def test_means_are_over_the_clips_that_all_have() -> None:
    table = build_table([result(), result("broken", scores=gather(30, count=2))])
    assert table.clips == 2
    assert [row.values["psnr"].mean for row in table.rows] == [30.5, 30.5]
    assert "over the 2 clips" in table.notes[-1]
    empty = Scores()
    with pytest.raises(ValueError, match="no clip was scored by all"):
        build_table([result(), result("none", scores=empty)])


def test_how_codes_were_used_is_not_known_of_some_clips() -> None:
    used = {"utilization": 0.5, "perplexity": 60.0, "macs": 5.0, "parameters": 9.0}
    ours, short = result(extra=used), result("broken", scores=gather(30, count=2), extra=used)
    whole, part = build_table([ours, ours]), build_table([ours, short])
    assert all(used.keys() <= row.values.keys() for row in whole.rows)
    for row in part.rows:
        assert row.values.keys() & used.keys() == {"parameters"}


def test_results_of_other_networks_do_not_compare(tmp_path: Path) -> None:
    ours = result(networks=["lpips-alex-1111aaaa", "lpips-squeeze-3333cccc"])
    ours.save(tmp_path / "ours.json")
    assert Result.load(tmp_path / "ours.json") == ours
    for networks in ([], ["lpips-alex-1111aaaa"], ours.networks):  # none: of before
        build_table([ours, result("b", networks=networks)])
    with pytest.raises(ValueError, match=r"ours and b do not .* differ in weights of lpips-alex:"):
        build_table([ours, result("b", networks=["lpips-alex-2222bbbb"])])
    with pytest.raises(ValueError, match=r"ours and b do not"):  # whatever stands before them
        build_table([result("old"), ours, result("b", networks=["lpips-alex-2222bbbb"])])


def test_metrics_of_other_definitions_do_not_compare() -> None:
    ours = result()
    build_table([ours, replace(ours, model="old", definitions={})])
    other = replace(ours, model="b", definitions=ours.definitions | {"ssim": "of luma"})
    for results in ([ours, other], [replace(ours, model="old", definitions={}), ours, other]):
        with pytest.raises(ValueError, match=r"ours and b do not .* in the definition of ssim: "):
            build_table(results)


def test_protocols_of_ones_own_are_possible() -> None:
    own = Protocol(name="mine", data="my clips", source="me", frames=9)
    assert build_table([result(protocol=own)]).protocol == own


def test_small_values_keep_two_digits() -> None:
    assert format_value("encode_fps", 0.031) == "0.031"
    assert format_value("encode_fps", 0.0312345) == "0.031"
    assert format_value("encode_fps", 12.34) == "12.3"
    assert format_value("encode_fps", 0.0) == "0.0"
    assert format_value("psnr", 31.237) == "31.24"
    assert format_value("peak_bytes_of_something", 324882432.0) == "324,882,432"
    assert format_value("coding_memory_bytes", 48627712.0) == "48,627,712"


def test_clips_left_out_stand_below_the_table() -> None:
    some = {f"{i}.mp4": "3 frames, but 17 are asked for" for i in range(12)}
    (line,) = note_left_out(some, 4)
    assert line.startswith("The protocol leaves out 12 of 16: 0.mp4 (3 frames, but 17 are asked")
    assert line.endswith(", 2 more.")
    assert note_left_out({}, 4) == []


def test_a_codec_far_from_the_bits_it_was_to_take_is_told() -> None:
    def codec(bits: int, role: str) -> Result:
        scores = gather(30)
        scores.clips = {n: replace(clip, bits=bits) for n, clip in scores.clips.items()}
        return result(f"x, {role}", kind="codec", scores=scores, settings={"role": role})

    fitting = [result(), codec(104, "clip"), codec(92, "set"), codec(300, "curve")]
    assert build_table(fitting).notes == build_table([result()]).notes
    (note,) = build_table([result(), codec(125, "clip")]).notes[1:]
    assert note.startswith("x, clip took 1.25 times the bits of ours: no quality")


def test_a_result_of_before_reads_as_it_did(tmp_path: Path) -> None:
    """Its protocol said `given`, `judged` and `readback`."""
    for via_mp4 in (False, True):
        new = result(protocol=replace(SHARED, via_mp4=via_mp4))
        new.save(tmp_path / "a.json")
        tree = json.loads((tmp_path / "a.json").read_text())
        plan = tree["protocol"]
        plan["given"], plan["judged"] = plan.pop("context_frames"), plan.pop("scored_size")
        plan["readback"] = "mp4" if plan.pop("via_mp4") else "float"
        (tmp_path / "a.json").write_text(json.dumps(tree))
        assert Result.load(tmp_path / "a.json") == new
    plan["readback"] = "gif"
    (tmp_path / "a.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="is not a result of reeltok"):
        Result.load(tmp_path / "a.json")
