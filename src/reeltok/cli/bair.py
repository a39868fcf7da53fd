"""`bair`: judge a prior's predictions of robot video, as MAGVIT does, standard or debiased."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, facts, note_all, save_record
from reeltok.files.places import check_result
from reeltok.wording import count

if TYPE_CHECKING:
    from reeltok.evaluate.bair import PredictionScores


def bair(
    model: Annotated[Path, typer.Argument(metavar="MODEL", show_default=False)],
    data: Annotated[str, typer.Argument(metavar="DATA", show_default=False)],
    *,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Protocol: standard (the first 16 frames of a video), or debiased (all "
            "windows of 16 frames in the first 30, which is the length of BAIR's videos).",
        ),
    ] = "standard",
    tokenizer: given.PriorTokenizerOption = None,
    videos: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Number of videos to use at most, drawn with a fixed seed; by default the "
            "protocol's 256.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Number of predictions for each clip; by default 100, or 1 under debiased.",
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Number of times to repeat the whole measurement, with other seeds, for mean "
            "and deviation; by default the protocol's 4.",
        ),
    ] = None,
    seed: given.SeedOption = 0,
    batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of clips to predict at the same time.")
    ] = 20,
    out: given.ResultOption = None,
    device: given.DeviceOption = "auto",
    force: given.ForceOption = False,
) -> Report:
    """Evaluate a prior's predictions from one frame, under MAGVIT's BAIR protocol.

    DATA is BAIR's test TFRecords, or videos of 16 frames or more, with their actions beside them if
    the prior knows any. Frames are judged at the prior's size, where BAIR's are 64x64. A prior of
    shorter clips predicts block after block. FVD compares whole clips, real and predicted; PSNR,
    SSIM (grey) and LPIPS are those of the best prediction for each clip, without the given frame. A
    metric whose network has no weight file reads "no weights".
    """
    check_result(out, force=force, inputs=[model, data])
    from reeltok.data.find import find_clips
    from reeltok.devices import pick_device
    from reeltok.evaluate.bair import PROTOCOLS_OF, PredictionPlan, judge_predictions
    from reeltok.evaluate.clips import sample_clips
    from reeltok.generate.predictor import PriorPredictor
    from reeltok.generate.schedule import BAIR_DEBIASED, BAIR_STANDARD

    if protocol not in PROTOCOLS_OF:
        raise ValueError(f"--protocol {protocol} is not known: give standard or debiased")
    rule = PROTOCOLS_OF[protocol]
    plan = PredictionPlan(protocol=rule, samples=samples, repeats=repeats, seed=seed, batch=batch)
    place = pick_device(device)
    sampling = BAIR_DEBIASED if protocol == "debiased" else BAIR_STANDARD
    predictor = PriorPredictor(model, tokenizer=tokenizer, sampling=sampling, device=place)
    clips = sample_clips(find_clips(data), videos or rule.clips or 10**9)
    with Progress("predicting", len(clips) * plan.rounds) as progress:
        found = judge_predictions(
            predictor,
            clips,
            plan,
            source=data,
            device=place,
            on_clip=lambda frames, of: progress.advance(frames, of=of),
            on_video=progress.finish_file,
        )
    note_all(notes_on(found, rule.name))
    settings = {"protocol": rule.name, "samples": plan.predictions, "repeats": plan.rounds}
    settings["seed"] = seed
    record = settings | asdict(found)
    if out is not None:
        save_record(record, out)
    return Report(data=record, text=predictions_text(record))


def notes_on(found: "PredictionScores", protocol: str) -> list[str]:
    """Where what was judged is not what the protocol is of."""
    from reeltok.evaluate.bair import SIZE, WHOLE

    notes, (height, width) = [], found.size
    if found.size != (SIZE, SIZE):
        sizes = f"{height}x{width} pixels, {protocol} is of {SIZE}x{SIZE}"
        notes.append(f"judged at {sizes}: not comparable")
    if found.longer:
        notes.append(
            f"{found.longer} of {count(found.videos, 'video')} are longer than BAIR's {WHOLE} "
            "frames: no window is taken beyond these"
        )
    return notes


def predictions_text(record: dict[str, Any]) -> str:
    """The record for people: every metric with its deviation over the repeats."""
    shown = {key: record[key] for key in ("protocol", "videos", "clips")}
    shown["size"] = "{}x{}".format(*record["size"])
    shown |= {name: f"{v['mean']:.4g} ± {v['std']:.2g}" for name, v in record["metrics"].items()}
    shown |= {name: f"no weights ({why})" for name, why in record["missing"].items()}
    return facts(shown)
