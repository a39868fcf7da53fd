"""Tokenizers as graphs: what they take and give, and that they compute what the model does."""

import json
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_models import CAUSAL, COORDTOK, DISCRETE, NONCAUSAL
from torch import Tensor

import reeltok
from reeltok.cli.main import main
from reeltok.export.graphs import OTHER, Graph, agreement_of, graphs_of
from reeltok.export.programs import check_graphs_folder, export_programs, trace, write_program
from reeltok.models.coordtok.network import CoordTok
from reeltok.models.vidtok.network import VidTok
from reeltok.models.vidtok.stages import VidTokConfig
from reeltok.nn.quantizers.lattice import FSQConfig
from reeltok.nn.quantizers.vector import VQConfig
from reeltok.tokenizer.contract import Tokenizer

pytestmark = pytest.mark.usefixtures("types_unchecked")
AHEAD = replace(CAUSAL, edge="past-first", upsampling="trilinear")
LEAST = VidTokConfig(
    quantizer=FSQConfig(levels=(4, 4, 4)),
    width=8,
    multipliers=(1,),
    blocks=(1,),
    space_down=(0,),
    space_up=(0,),
    time_down=(0,),
    time_up=(0,),
    middle="none",
    block="light",
    edge="past-first",
)
VECTORS = replace(LEAST, quantizer=VQConfig(codes=16, width=4))


def build(config: Any) -> Tokenizer:
    torch.manual_seed(3)
    return (CoordTok if config is COORDTOK else VidTok)(config, "small").eval()


def named(graphs: list[Graph]) -> dict[str, Graph]:
    return {graph.name: graph for graph in graphs}


@torch.no_grad()
def streamed(graphs: dict[str, Graph], side: str, parts: list[Tensor]) -> list[list[Tensor]]:
    """What the graphs of a stream make of its parts, one after another, handing the state on."""
    kinds = ["begin"] + ["step"] * (len(parts) - 1)
    if f"{side}_end" in graphs:
        kinds[-1] = "end"
    made, state = [], []
    for kind, part in zip(kinds, parts, strict=True):
        graph = graphs[f"{side}_{kind}"]
        outputs = graph.module(part, *state)
        held = [name for name in graph.outputs if name.startswith("next.")]
        made.append(list(outputs[: len(outputs) - len(held)]))
        state = list(outputs[len(outputs) - len(held) :])
    return made


# ---------------------------------------------------------------- what is exported


@pytest.mark.parametrize("config", [CAUSAL, DISCRETE, AHEAD], ids=["kl", "fsq", "ahead"])
def test_the_steps_of_a_stream_are_those_of_the_model(config: VidTokConfig) -> None:
    model = build(config)
    graphs, time = named(graphs_of(model, 9)), model.spec.factors[0]
    x = torch.rand(1, 3, 1 + 3 * time, 16, 24) * 2 - 1
    tokens = model.encode(x)
    whole = tokens.ids if tokens.latents is None or tokens.ids is not None else tokens.latents
    made = streamed(graphs, "encoder", [x[:, :, :1], *x[:, :, 1:].split(time, dim=2)])
    axis = 1 if tokens.ids is not None else 2
    found = torch.cat([each[-1] for each in made], dim=axis)
    assert torch.allclose(found.float(), whole.float(), atol=1e-5)
    first = graphs["decoder_begin"].inputs[graphs["decoder"].inputs.__iter__().__next__()]
    begin = first.shape[axis]
    parts = list(whole.split([begin] + [1] * (whole.shape[axis] - begin), dim=axis))
    frames = torch.cat([each[0] for each in streamed(graphs, "decoder", parts)], dim=2)
    assert torch.allclose(frames, model.decode(tokens), atol=1e-5)
    assert ("decoder_end" in graphs) == (config is AHEAD)


def test_sizes_are_free_and_frames_are_not() -> None:
    graphs = named(graphs_of(build(DISCRETE), 9))
    assert graphs["encoder"].shape_of("frames") == ["batch", 3, 9, "8*rows", "8*columns"]
    assert graphs["decoder"].shape_of("ids") == ["batch", 3, "rows", "columns"]
    assert graphs["encoder_step"].shape_of("frames") == ["batch", 3, 4, "8*rows", "8*columns"]
    shape = graphs["encoder_step"].shape_of("state.encoder.conv_in")
    assert shape[0] == "batch"
    assert shape[-1] == 3 * 32
    assert [*graphs["encoder_begin"].outputs[:2]] == ["latents", "ids"]


def test_only_what_streams_has_steps() -> None:
    for config in (NONCAUSAL, COORDTOK):
        graphs = graphs_of(build(config), 9)
        assert [graph.name for graph in graphs] == ["encoder", "decoder"]
    assert graphs[0].shape_of("frames") == ["batch", 3, 8, 16, 24]  # a window of CoordTok


def test_blocks_with_reference_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"decodes as it encodes.*not a fixed graph"):
        graphs_of(reeltok.load("reftok-default"), 9)


def test_latents_are_compared_where_ids_are_the_same() -> None:
    ids, latents = torch.tensor([[1, 2]]), torch.zeros(1, 3, 2)
    far = latents.clone()
    far[:, :, 1] = 5.0
    assert agreement_of(["latents", "ids"], [far, ids], [latents, ids]).outputs == 5.0
    other = torch.tensor([[1, 3]])
    found = agreement_of(["latents", "ids", "next.a"], [far, other, ids], [latents, ids, ids + 2])
    assert (found.outputs, found.states, found.ids) == (0.0, 2.0, 0.5)


@pytest.mark.parametrize(
    ("made", "wanted"), [(nan, 0.0), (0.0, nan), (inf, 0.0), (inf, -inf), (nan, inf)]
)
def test_what_is_not_finite_is_far_from_all_but_itself(made: float, wanted: float) -> None:
    one, other = torch.tensor([[[made, 1.0]]]), torch.tensor([[[wanted, 1.0]]])
    ids = torch.tensor([[1, 2]])
    names = ["latents", "ids", "next.a"]
    found = agreement_of(names, [one, ids, one], [other, ids, other])
    assert (found.outputs, found.states) == (inf, inf)
    elsewhere = agreement_of(names, [one, ids, other], [other, ids + 1, other])
    assert (elsewhere.outputs, elsewhere.states) == (0.0, 0.0)


def test_unknown_formats_and_frames_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="`to` tflite is not known: give torch-export or onnx"):
        export_programs(build(LEAST), out, to="tflite")
    assert main(["export", "default", str(out), "--to", "onnx", "--frames", "0"]) == 2
    assert "--frames 0 is not a number of frames" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match=r"out holds other files: name a new or an empty one"):
        export_programs(build(LEAST), out, to="torch-export")
    assert (out / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("frames", [0, -3, 2.5, True])
def test_clips_have_a_whole_number_of_frames(frames: Any) -> None:
    with pytest.raises(ValueError, match=r"`frames` \S+ is not a number of frames: give 1 or more"):
        graphs_of(build(LEAST), frames)


def test_what_is_beside_earlier_graphs_is_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"graphs": [{"name": "encoder", "file": "encoder.onnx"}]}
    for name in ("encoder.onnx", "encoder.onnx.data"):
        (tmp_path / name).write_bytes(b"earlier")
    for text in (json.dumps(record), "{}", "[]", '{"graphs": [3]}', "damaged"):
        (tmp_path / "graphs.json").write_text(text)
        (tmp_path / "run_it.py").write_text("mine")
        with pytest.raises(ValueError, match=r"run_it\.py.* does not name"):
            export_programs(build(LEAST), tmp_path, to="torch-export")
        (tmp_path / "run_it.py").unlink()
    with pytest.raises(ValueError, match=r"holds encoder\.onnx, encoder\.onnx\.data, which graphs"):
        check_graphs_folder(tmp_path)
    (tmp_path / "graphs.json").write_text(json.dumps(record))
    check_graphs_folder(tmp_path)
    (tmp_path / "run_it.py").write_text("mine")
    assert main(["export", "default", str(tmp_path), "--to", "torch-export", "--force"]) == 2
    assert "holds run_it.py, which graphs.json there does not name" in capsys.readouterr().err


def test_onnx_in_a_type_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnx)")
    with pytest.raises(ValueError, match=r"small is in bfloat16.*: load it in float32"):
        export_programs(build(LEAST).to(torch.bfloat16), tmp_path / "out", to="onnx")


def test_a_model_comes_back_in_the_mode_that_it_was_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reeltok.export import programs

    model, modes = build(LEAST).train(), []

    def write(graph: Graph, *_: Any) -> Any:
        modes.append(graph.module.training or model.training)
        return SimpleNamespace(name=graph.name)

    model.encoder.eval()
    monkeypatch.setattr(programs, "trace", lambda graph, tokenizer: graph)
    monkeypatch.setattr(programs, "write_program", write)
    export_programs(model, tmp_path / "out", to="torch-export", frames=3)
    assert modes
    assert not any(modes)
    assert model.training
    assert model.decoder.training
    assert not any(part.training for part in model.encoder.modules())


def test_what_differs_from_its_model_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reeltok.export import programs

    wrong = lambda program, file: file.write(b"")
    monkeypatch.setattr(torch.export, "save", wrong)
    monkeypatch.setattr(programs, "trace", lambda graph, tokenizer: graph)
    monkeypatch.setattr(torch.export, "load", lambda path: Shifted())
    with pytest.raises(ValueError, match="the encoder differs by 1"):
        export_programs(build(NONCAUSAL), tmp_path / "out", to="torch-export", frames=4)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("ids", r"the encoder_step differs by 0, and 100\.0% of its ids from the model"),
        ("next.encoder.conv_in", r"the encoder_step differs by 1, and 0\.0% of its ids from"),
    ],
)
def test_wrong_ids_and_wrong_states_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, said: str
) -> None:
    graph = named(graphs_of(build(LEAST), 3))["encoder_step"]

    def module(*inputs: Tensor) -> list[Tensor]:
        made = zip(graph.outputs, graph.module(*inputs), strict=True)
        return [tensor + (name == output) for name, tensor in made]

    monkeypatch.setattr(torch.export, "save", lambda program, file: file.write(b""))
    monkeypatch.setattr(torch.export, "load", lambda path: SimpleNamespace(module=lambda: module))
    with pytest.raises(ValueError, match=said):
        write_program(graph, Any, tmp_path, "torch-export")


class Shifted:
    """A program that gives the model's latents plus one."""

    def module(self) -> Any:
        model = build(NONCAUSAL)
        return lambda x: (model.encode_part(x).z.detach() + 1,)


# ---------------------------------------------------------------- as programs


@torch.no_grad()
@pytest.mark.parametrize("config", [LEAST, VECTORS], ids=["fsq", "vq"])
def test_an_encoder_is_traced_for_any_size(config: VidTokConfig) -> None:
    model = build(config)
    graph = named(graphs_of(model, 3))["encoder"]
    x = graph.examples(OTHER).values()
    made, wanted = trace(graph, model).module()(*x), graph.module(*x)
    found = agreement_of(graph.outputs, made, wanted)
    assert found.outputs < 1e-5
    assert found.ids == 1.0


@pytest.mark.slow
def test_onnx_decodes_ids_as_the_model_does(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnx)")
    model = build(LEAST)
    graph = named(graphs_of(model, 3))["decoder"]
    made = write_program(graph, trace(graph, model), tmp_path, "onnx")
    assert made.difference < 1e-5
    assert (tmp_path / "decoder.onnx").is_file()


CASES = {
    "kl": CAUSAL,
    "fsq": DISCRETE,
    "vq": VECTORS,
    "ahead": AHEAD,
    "noncausal": NONCAUSAL,
    "planes": COORDTOK,
}


@pytest.mark.slow
@pytest.mark.parametrize("to", ["torch-export", "onnx"])
@pytest.mark.parametrize("case", CASES)
def test_programs_are_equal_to_their_models(case: str, to: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnx)")
    model = build(CASES[case])
    for program in export_programs(model, tmp_path / "out", to=to, frames=9):
        print(
            f"\n{case} {to} {program.name} {program.difference:.1e} {program.state_difference:.1e}"
        )
        assert program.difference < 1e-5, program.name
        assert program.state_difference < 5e-5, program.name  # eager itself is 1e-5 from float64
        assert program.same in (None, 1.0), program.name


@pytest.mark.slow
def test_onnx_streams_by_what_graphs_json_says(tmp_path: Path) -> None:
    """As a program without this package would: names, shapes and states are in the file."""
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra onnx)")
    build(LEAST).save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "model"), str(out), "--to", "onnx"]) == 0
    about = json.loads((out / "graphs.json").read_text())
    files = {graph["name"]: graph["file"] for graph in about["graphs"]}
    sessions = {
        name: runtime.InferenceSession(str(out / file), providers=["CPUExecutionProvider"])
        for name, file in files.items()
    }
    x, group = torch.rand(2, 3, 7, 8, 6) * 2 - 1, about["frames_per_group"]
    state: dict[str, Any] = {}
    ids, parts = [], [x[:, :, :1], *x[:, :, 1:].split(group, dim=2)]
    for part, name in zip(parts, ["encoder_begin"] + ["encoder_step"] * 3, strict=True):
        session = sessions[name]
        made = session.run(None, {"frames": part.numpy(), **state})
        found = dict(zip([each.name for each in session.get_outputs()], made, strict=True))
        ids.append(torch.from_numpy(found["ids"]))
        state = {f"state.{k[5:]}": v for k, v in found.items() if k.startswith("next.")}
    assert torch.equal(torch.cat(ids, dim=1), reeltok.load(tmp_path / "model").encode(x).ids)
