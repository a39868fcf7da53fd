"""`corpus build` and `corpus finish`: data sets to tokens, in shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, facts, note, note_all
from reeltok.files.places import check_apart, check_place
from reeltok.wording import count, duration

if TYPE_CHECKING:
    from reeltok.corpus import Built, NamedTokenizer, Shaping, WindowCoding

DataArgument = Annotated[str, typer.Argument(metavar="DATA", show_default=False)]
OutArgument = Annotated[str, typer.Argument(metavar="OUT", show_default=False)]
PlaceArgument = Annotated[str, typer.Argument(metavar="CORPUS", show_default=False)]
WindowsOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Number of frames in a window; by default whole clips."),
]
StrideOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Frames from the start of one window to the next; by default as many as --frames.",
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="256|HxW",
        help="Pixels of the short side, or height x width, for which the middle is cut out;"
        " by default the size is kept.",
    ),
]
BucketsOption = Annotated[
    str | None,
    typer.Option(
        metavar="WxHxF,...",
        help="Sizes and frames of windows, such as 448x256x17,256x448x17; each clip goes to the"
        " nearest shape; by default those of --size and --frames.",
    ),
]
ShortestOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Leave out clips of fewer frames; by default none."),
]
ScenesOption = Annotated[
    bool, typer.Option("--scenes", help="Look for cuts; no window goes across one.")
]
KeepOption = Annotated[
    str | None,
    typer.Option(
        metavar="ids|latents|moments",
        help="What to keep: ids, latents, or mean and log-variance; by default ids of a discrete"
        " tokenizer and latents of another.",
    ),
]
LatentsOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Precision of kept latents: fp16, bf16 or fp32; by default fp16."
    ),
]
TextOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder with an embedding for each clip, NAME.npy or NAME.safetensors; by default"
        " there are none.",
    ),
]
PackOption = Annotated[
    bool,
    typer.Option("--pack", help="Pack ids without loss, by the packing model of --model."),
]
BatchOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Number of windows to encode at the same time.")
]
ClipsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Number of clips in a shard.")]
ThreadsOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Number of threads of each encoder.")
]
RootOption = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Folder of a list's files; by default the list's own."),
]
ColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of a list that holds the class; by default group, class or label.",
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Shards to make at a time, each by its own process; by default one for each"
        " accelerator, or 1.",
    ),
]
DecodersOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Processes that decode ahead of each encoder; by default 0 on the CPU, up to 8 for"
        " an accelerator.",
    ),
]
ShareOption = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Make the share I of N of the shards, counted from 0; by default as torchrun, SLURM"
        " or Kubernetes say, or all.",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="here|auto|ADDRESS",
        help="Make the shards on a Ray cluster: a new one here, the one at hand, or that at an"
        " address. By default this machine makes them.",
    ),
]
GpusOption = Annotated[
    int,
    typer.Option(
        min=0, metavar="N", help="With --ray, the number of GPUs to encode on; 0 encodes on CPUs."
    ),
]
RetryOption = Annotated[
    bool, typer.Option("--retry-failed", help="Retry clips that could not be read.")
]


def build(
    data: DataArgument,
    out: OutArgument,
    *,
    model: given.ModelOption = "default",
    weights: given.WeightsOption = None,
    frames: WindowsOption = None,
    stride: StrideOption = None,
    fps: given.RateOption = None,
    size: SizeOption = None,
    buckets: BucketsOption = None,
    shortest: ShortestOption = None,
    scenes: ScenesOption = False,
    damage: given.DamageOption = "refuse",
    keep: KeepOption = None,
    latents: LatentsOption = None,
    pack: PackOption = False,
    text: TextOption = None,
    batch: BatchOption = 8,
    shard_clips: ClipsOption = 64,
    threads: ThreadsOption = 1,
    refine: given.RefineOption = 0,
    rate_weight: given.RateWeightOption = 0.0,
    tile: given.TileOption = None,
    root: RootOption = None,
    column: ColumnOption = None,
    device: given.DeviceOption = "auto",
    dtype: given.DtypeOption = "fp32",
    jobs: JobsOption = None,
    decoders: DecodersOption = None,
    shard: ShareOption = None,
    ray: RayOption = None,
    gpus: GpusOption = 0,
    retry_failed: RetryOption = False,
) -> Report:
    """Encode a data set as shards of tokens, or what is missing of them.

    DATA is a folder, a pattern, a list (.csv, .jsonl, .parquet) whose columns are carried along, a
    .tar shard or a LeRobot data set; OUT is a folder or an address such as s3://bucket/tokens. A
    clip that cannot be read is among the failures, and the run goes on. Run it again to go on with
    what was interrupted; several machines at once each make their share.
    """
    from reeltok.corpus import Cluster, Engine, build_corpus, plan_corpus

    check_out(out, data)
    shaping = parse_shaping(
        frames, stride, fps, size, buckets, shortest, scenes=scenes, damage=damage
    )
    coding = parse_coding(keep, latents, batch, threads, tile, shard_clips, pack=pack)
    share = parse_share(shard)
    engine: Engine | Cluster = Engine(device=device, jobs=jobs, decoders=decoders)
    if ray is None:
        given.require_use("--ray", gpus=gpus or None)
    else:
        here = None if device == "auto" else device
        given.require_use("this machine, without --ray", device=here, decoders=decoders)
        engine = Cluster(address=None if ray == "here" else ray, gpus=gpus, most=jobs)
    opener = open_named(model, weights, dtype, refine, rate_weight)
    plan = plan_corpus(
        data, opener, shaping=shaping, coding=coding, root=root, column=column, texts=text
    )
    if plan.coding.keep == "ids":
        given.require_use("latents, and ids are kept", latents=latents)
    note_all(plan.notes)
    with Progress("encoding", len(plan.sources)) as watcher:
        built = build_corpus(
            plan,
            out,
            opener,
            engine=engine,
            share=share,
            retry=retry_failed,
            on_clips=watcher.finish_files,
        )
    return build_report(built)


def check_out(out: str, data: str) -> None:
    """ValueError where the corpus would lie among the clips; OSError where it cannot be made."""
    from reeltok.video.inputs import is_address

    if is_address(out):
        return
    if Path(out).is_file():
        raise NotADirectoryError(f"{out} is a file, and a corpus is a folder: name another OUT")
    if not Path(out).is_dir():
        check_place(out)
    check_apart(data, out)


def finish(corpus: PlaceArgument) -> Report:
    """Make the index, the list of failures and the manifest of a corpus whose shards are done."""
    from reeltok.corpus.finish import finish_corpus
    from reeltok.corpus.place import Place as Where

    manifest = finish_corpus(Where(corpus))
    return Report(data=manifest, text=manifest_text(manifest), failed=lacking(manifest, corpus))


def build_report(built: "Built") -> Report:
    """What a run did."""
    from reeltok.corpus.shard import sidecar_name

    data = {"place": built.place, "made": built.made, "shards": built.shards}
    data |= {"missing": built.missing, "share": [*built.share], "manifest": built.manifest}
    rank, ranks = built.share
    whose = "" if ranks == 1 else f" of the share {rank}/{ranks}"
    if built.stale:
        number, names = next(iter(built.stale.items()))
        note(
            f"newer than their tokens: {count(sum(map(len, built.stale.values())), 'clip')} of "
            f"{count(len(built.stale), 'shard')}, such as {names[0]} of {sidecar_name(number)}; if "
            "they hold another video now, remove the .json of their shards and build again"
        )
    made = f"{built.place}: {count(built.made, 'shard')}{whose} made"
    lines = [f"{made}, {built.shards - built.missing} of {built.shards} are there"]
    if built.manifest is None:
        lines.append("the corpus is finished by the run that makes the last of them")
        return Report(data=data, text="\n".join(lines))
    lines.append(manifest_text(built.manifest))
    return Report(data=data, text="\n".join(lines), failed=lacking(built.manifest, built.place))


def lacking(manifest: dict[str, Any], place: str) -> str | None:
    """What a finished corpus lacks: clips that could not be read, or all rows."""
    from reeltok.corpus.place import Place
    from reeltok.corpus.read import read_failures

    failed = manifest["failed"]
    if not manifest["rows"] and failed < manifest["clips"]:
        left_out = read_failures(Place(place))
        one = next((each for each in left_out if "too short" in each["reason"]), left_out[0])
        return (
            f"{place} has no rows: no clip gives a window, such as {one['source']} "
            f"({one['reason']}); build it elsewhere with fewer --frames or a lower --shortest"
        )
    said = f"{failed} of {manifest['clips']} clips could not be read: `reeltok corpus info {place}`"
    return f"{said} names them" if failed else None


def manifest_text(manifest: dict[str, Any]) -> str:
    """A corpus in a few lines for people."""
    kept, pixels = manifest["build"]["keep"], max(1, manifest["pixels"])
    shown = {
        "clips": manifest["clips"],
        "left out": f"{manifest['failed']} broken, {manifest['short']} too short",
        "rows": manifest["rows"],
        "video": duration(manifest["seconds"]),
        "tokens": f"{manifest['tokens']:,} ({kept} of {manifest['tokenizer']['name']})",
        "bits per pixel": bits_text(manifest["bits"], manifest.get("stored_bits"), pixels),
        "bytes": manifest["bytes"],
        "buckets": ", ".join(f"{name} ({n:,})" for name, n in manifest["buckets"].items()),
    }
    return facts(shown)


def bits_text(nominal: int, stored: int | None, pixels: int) -> str:
    """Bits per pixel; nominal and stored ones are told apart where ids are packed."""
    if stored is None:
        return str(round(nominal / pixels, 5))
    return f"{stored / pixels:.5f} stored, {nominal / pixels:.5f} nominal"


def parse_shaping(
    frames: int | None,
    stride: int | None,
    fps: float | None,
    size: str | None,
    buckets: str | None,
    shortest: int | None,
    *,
    scenes: bool,
    damage: str,
) -> "Shaping":
    """How clips are cut, from options."""
    from reeltok.corpus.shaping import Bucket, Shaping

    if fps is not None and not fps > 0:
        raise ValueError(f"--fps {fps:g} is not a rate: give frames per second above 0")
    return Shaping(
        frames=frames,
        stride=stride,
        fps=fps,
        size=given.parse_size(size),
        buckets=tuple(Bucket.of(each) for each in buckets.split(",")) if buckets else (),
        shortest=shortest,
        scenes=scenes,
        damage=damage,
    )


def parse_coding(
    keep: str | None,
    latents: str | None,
    batch: int,
    threads: int,
    tile: int | None,
    clips: int,
    *,
    pack: bool,
) -> "WindowCoding":
    """How windows are coded, from options."""
    from reeltok.corpus.plan import WindowCoding

    if keep not in (None, "ids", "latents", "moments"):
        raise ValueError(f"--keep {keep} is not known: give ids, latents or moments")
    return WindowCoding(
        keep=keep,  # type: ignore[arg-type]
        dtype=precision_of(latents or "fp16", "--latents"),
        batch=batch,
        threads=threads,
        tile=tile,
        clips=clips,
        pack=pack,
    )


def precision_of(text: str, option: str) -> str:
    """The name of torch's dtype; ValueError for what is none."""
    return str(given.parse_dtype(text, option)).removeprefix("torch.")


def open_named(
    model: str, weights: str | None, dtype: str, refine: int = 0, rate_weight: float = 0.0
) -> "NamedTokenizer":
    """What opens the tokenizer in every process."""
    from reeltok.corpus.opening import NamedTokenizer

    precision = precision_of(dtype, "--dtype")
    refined: dict[str, Any] = {"refine": refine, "rate_weight": rate_weight}
    return NamedTokenizer(load=model, weights=weights, precision=precision, **refined)


def parse_share(text: str | None) -> tuple[int, int] | None:
    """ "0/4" as (0, 4); ValueError for what is none."""
    if text is None:
        return None
    index, slash, total = text.partition("/")
    if not (slash and index.isdecimal() and total.isdecimal() and int(index) < int(total)):
        raise ValueError(f"--shard {text} is not a share: give I/N, from 0/N up to N-1/N")
    return int(index), int(total)
