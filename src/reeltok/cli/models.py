"""`models`, `download`, `statistics`: which tokenizers there are, and what they lack."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, table
from reeltok.files.atomic import cache_folder
from reeltok.files.places import check_folder
from reeltok.transcode.options import Coding, Cut
from reeltok.wording import count, plain

if TYPE_CHECKING:
    from reeltok.tokenizer.folder import LatentStatistics


def models() -> Report:
    """List the tokenizers that can be used by name, and the generators that come along.

    Their weights are "bundled" with the package, "here" (downloaded before), available from
    `reeltok download`, or not published. `reeltok info NAME` describes one tokenizer.
    """
    from reeltok import zoo
    from reeltok.generate.folder import bundled_generators
    from reeltok.models.presets import PRESETS

    rows = [
        {"name": name, "family": family, **config_facts(config), "weights": zoo.weights_of(name)}
        for name, (family, config) in PRESETS.items()
    ]
    made = bundled_generators()
    text = f"{table(rows)}\n\ngenerators: {', '.join(made)} (`reeltok generate NAME`)"
    return Report(data={"models": rows, "generators": made}, text=text)


def config_facts(config: Any) -> dict[str, Any]:
    """What a configuration says of its tokens, as a row of the table."""
    from reeltok.models.presets import token_facts

    facts = token_facts(config)
    kind = facts.quantizer or "latents"
    return {
        "pixels a token": None if facts.factors is None else "x".join(map(str, facts.factors)),
        "causal": None if facts.causal is None else plain(facts.causal),
        "tokens": f"{kind}, {facts.channels} channels" if facts.vocabulary is None else kind,
        "vocabulary": facts.vocabulary,
    }


def download(
    preset: Annotated[str, typer.Argument(metavar="PRESET", show_default=False)],
) -> Report:
    """Download the published weights of a preset, and convert them.

    They are kept in $REELTOK_CACHE, or else in the folder reeltok of the user's cache, where
    `--model PRESET` and `reeltok.load` find them.
    """
    from reeltok import zoo

    folder = zoo.download(preset)
    return Report(
        data={"preset": preset, "folder": str(folder)},
        text=f"{preset} is here: {folder}",
    )


def statistics(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False)],
    data: Annotated[str, typer.Argument(metavar="DATA", show_default=False)],
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to save the model in; by default its own."),
    ] = None,
    frames: given.FramesOption = None,
    fps: given.RateOption = None,
    size: given.SideOption = None,
    damage: given.DamageOption = "refuse",
    weights: given.WeightsOption = None,
    reader: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="NAME",
            help="Tokenizer of a generator, a name or a folder; by default the one that the "
            "generator names.",
        ),
    ] = None,
    device: given.DeviceOption = "auto",
    chunk: given.ChunkOption = None,
    tile: given.TileOption = None,
    force: given.ForceOption = False,
) -> Report:
    """Measure mean and standard deviation of a continuous model's latents, and save them with it.

    DATA is a video, a folder, a pattern, a list or a .tar shard; every channel's mean and standard
    deviation are exact over all of it, of a causal model also of first and of later steps apart.
    They are saved in config.json, where generators look for them; the weights of MODEL stay as they
    are. MODEL may also be a flow, that is a generator: then each plane is measured separately, on
    the middle squares of the clips, and statistics that it has are replaced only with --force.
    """
    if out is not None:
        check_folder(out, force=force, inputs=[model, weights])
    if is_flow(model):
        idle = {"frames": frames, "fps": fps, "size": size, "damage": damage != "refuse"}
        idle |= {"weights": weights, "chunk": chunk, "tile": tile}
        given.require_use("tokenizers, and MODEL is a flow", **idle)
        how = {"tokenizer": reader, "device": device, "replace_known": force}
        return flow_statistics(model, data, out=out, **how)
    from reeltok.data.find import find_clips
    from reeltok.tokenizer.folder import amend_config
    from reeltok.transcode.statistics import check_continuous, measure_latents

    given.require_use("a flow, and MODEL is none", tokenizer=reader)
    clips = find_clips(data)
    tokenizer = given.open_model(model, weights=weights, device=device, dtype="fp32")
    check_continuous(tokenizer)
    folder = out or own_folder(model, weights)
    cut = Cut(frames=frames, fps=fps, size=given.parse_size(size), damage=damage)
    coding = Coding(chunk=chunk, tile=tile)
    with Progress("measuring", len(clips)) as progress:
        measured = measure_latents(tokenizer, clips, cut=cut, coding=coding, watcher=progress)
    found = measured.record()
    if out is None:
        amend_config(folder, statistics=found)
    else:
        tokenizer.statistics = found
        tokenizer.save_pretrained(folder)
    counts = {"clips": measured.clips, "broken": measured.broken, "latents": measured.moments.count}
    rows = channel_rows(found)
    text = f"{table(rows)}\n\nfrom {count(measured.clips, 'clip')}, saved in {folder}"
    return Report(data={"folder": str(folder), **counts, **found}, text=text)


def channel_rows(found: "LatentStatistics") -> list[dict[str, Any]]:
    """A row for each channel: of all steps, and where they are told apart of first and later."""
    columns = {"mean": found["mean"], "std": found["std"]}
    for steps, part in (("first", found.get("first")), ("later", found.get("later"))):
        if part is not None:
            columns |= {f"mean, {steps}": part["mean"], f"std, {steps}": part["std"]}
    return [
        {"channel": i} | {name: values[i] for name, values in columns.items()}
        for i in range(len(found["mean"]))
    ]


def flow_statistics(model: str, data: str, *, out: Path | None, **options: Any) -> Report:
    """Measure those of a flow, group by group."""
    from reeltok.generate.statistics import measure_flow

    found = measure_flow(model, data, out=out, **options)
    record = {"folder": str(found.folder), "examples": found.examples, "groups": [*found.groups]}
    statistics = found.statistics
    rows = [
        {"group": name, "channel": i, "mean": mean, "std": std}
        for name, means, stds in zip(found.groups, statistics.mean, statistics.std, strict=True)
        for i, (mean, std) in enumerate(zip(means, stds, strict=True))
    ]
    text = f"{table(rows)}\n\nfrom {found.examples} examples, saved in {found.folder}"
    return Report(data={**record, "mean": statistics.mean, "std": statistics.std}, text=text)


def is_flow(model: str) -> bool:
    """Whether a name is the folder of a flow."""
    from reeltok.files.parsing import read_object

    config = Path(model) / "config.json"
    return config.is_file() and read_object(config).get("family") == "flow"


def own_folder(model: str, weights: str | None) -> Path:
    """The folder in which a model lies in our format, with its own weights. ValueError for none."""
    from reeltok.files.parsing import read_object

    if weights is not None:
        raise ValueError(f"--weights are not those of {model}: name a folder for both with --out")
    for folder in (Path(model), cache_folder(model)):
        if not (folder / "model.safetensors").is_file():
            continue
        record = read_object(folder / "config.json")
        if "family" in record and "_class_name" not in record:  # else diffusers wrote it last
            return folder
    raise ValueError(f"{model} does not lie in a folder of its own: name one with --out")
