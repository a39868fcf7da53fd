"""`push`: judge a tokenizer or a prior on held-out episodes of the pushing world."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reeltok.cli import options as given
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, facts, save_record, table
from reeltok.files.places import check_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reeltok.data.clip import Clip
    from reeltok.evaluate.push.candidates import Coded, Make
    from reeltok.evaluate.push.judge import PushScores, WorldFacts
    from reeltok.metrics.lpips import LPIPS

SHOWN = (
    "psnr",
    "changing",
    "lpips",
    "lpips changing",
    "false",
    "gripper",
    "missing",
    "moved",
    "share",
    "gone",
    "twice",
)
"""Measures that people see; programs see all of them."""
CHANGING, MOVING = 0.03, 0.5  # what episodes to judge on are meant to show (docs/push.md)


def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False)],
    data: Annotated[str, typer.Argument(metavar="DATA", show_default=False)],
    *,
    tokenizer: given.PriorTokenizerOption = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Another model to judge on the same episodes, and to compare with; may be given "
            "several times; by default none.",
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=2, metavar="N", help="Frames of an episode to judge, the first too.")
    ] = 16,
    episodes: Annotated[
        int, typer.Option(min=2, metavar="N", help="Number of episodes to use at most.")
    ] = 256,
    steps: given.PriorStepsOption = None,
    guidance: given.PriorGuidanceOption = None,
    token_temperature: given.PriorTemperatureOption = None,
    seed: given.SeedOption = 0,
    refine: given.RefineOption = 0,
    rate_weight: given.RateWeightOption = 0.0,
    out: given.ResultOption = None,
    device: given.DeviceOption = "auto",
    force: given.ForceOption = False,
) -> Report:
    """Judge a tokenizer or a predictor on episodes of `reeltok data push` that it has not seen.

    MODEL is a tokenizer, or the folder of a prior or of a predictor of pixels, which go on from
    each first frame by the true actions and by those of another episode. Beside it stand the first
    frame and the mean frame as still pictures, and H.264 at the tokenizer's bits: at the nominal
    ones, and at those of its file where its ids can be packed. docs/push.md says what is measured.
    """
    check_result(out, force=force, inputs=[model, data, *(beside or [])])
    from reeltok.cli.push_models import model_name, open_beside, open_judged, require_tokenizers
    from reeltok.data.find import find_clips
    from reeltok.devices import pick_device
    from reeltok.evaluate.push.candidates import repeat_first, repeat_mean
    from reeltok.evaluate.push.judge import judge_episodes

    refined: dict[str, Any] = {"refine": refine, "rate_weight": rate_weight}
    require_tokenizers(refined, [model, *(beside or [])])
    place = pick_device(device)
    clips = find_clips(data)[:episodes]
    how = {"steps": steps, "guidance": guidance, "token_temperature": token_temperature}
    asked: dict[str, Any] = {"device": place, "how": how, "seed": seed, "refined": refined}
    ours = open_judged(model, tokenizer=tokenizer, **asked)
    others = open_beside(beside or [], ours, **asked)
    candidates: dict[str, Make] = {**ours.makes, **others.makes}
    codecs, spent = codecs_beside(ours.coded)
    candidates |= codecs  # after what they take the bits of
    candidates |= {"first frame": repeat_first, "mean frame": repeat_mean}
    lpips, missing = open_lpips(clips[0])
    with Progress("judging", len(clips)) as progress:
        found = judge_episodes(
            candidates,
            clips,
            frames=frames,
            lpips=lpips,
            on_episode=progress.finish_file,
        )
    bits = {name: sum(each.values()) / len(clips) for name, each in spent.items()}
    ids = ids_facts(candidates)
    record = {"model": model, "sampling": ours.sampling, "seed": seed, **refined}
    if beside:
        record["beside"] = {model_name(each): each for each in beside}
        record["sampling_beside"] = others.sampling
    record |= {"bits": bits, "ids": ids, **asdict(found), "missing": missing}
    if out is not None:
        save_record(record, out)
    return Report(data=record, text=push_text(found, bits, ids, missing))


def codecs_beside(coded: "Coded | None") -> "tuple[dict[str, Make], dict[str, dict[int, int]]]":
    """H.264 at a tokenizer's bits, nominal and stored ones, and the bits of both by episode."""
    from reeltok.evaluate.push.candidates import Make, Tiled

    codecs, spent = dict[str, Make](), dict[str, dict[int, int]]()
    if coded is None:
        return codecs, spent
    rates = {"": coded.bits} | ({" stored": coded.stored} if coded.packs else {})
    for kind, bits in rates.items():
        codecs[f"h264 at its{kind} bits"] = tiled = Tiled(bits=bits, given=coded.given)
        spent |= {f"model{kind}": bits, f"h264{kind}": tiled.spent}
    return codecs, spent


def open_lpips(clip: "Clip") -> "tuple[LPIPS | None, Mapping[str, str]]":
    """LPIPS for episodes like this one; without weights, or for small frames, None and why."""
    from reeltok.evaluate.scores import open_scorer

    scorer = open_scorer(["lpips-alex"])
    net = next(iter(scorer.lpips), None)
    side = min(clip.read(frames=1).frames.shape[1:3])
    if net is not None and side < net.backbone.smallest:
        why = f"it needs frames of {net.backbone.smallest} pixels a side, these have {side}"
        return None, {"lpips-alex": why}
    return net, scorer.missing


def ids_facts(candidates: "Mapping[str, Make]") -> dict[str, dict[str, float]]:
    """How the ids of each tokenizer among the candidates are distributed."""
    from reeltok.evaluate.push.candidates import Coded

    return {
        name: {
            "bits": make.tokenizer.spec.bits,
            "entropy": make.usage.entropy,
            "commonest": make.usage.commonest,
        }
        for name, make in candidates.items()
        if isinstance(make, Coded) and make.usage is not None
    }


def push_text(
    found: "PushScores",
    bits: dict[str, float],
    ids: dict[str, dict[str, float]],
    missing: "Mapping[str, str]",
) -> str:
    """The world's facts, a table for every horizon, the distances, and what has no weights."""
    world = asdict(found.world)
    world["offset"] = ", ".join(f"{value:.2f}" for value in found.world.offset)
    parts = [facts(world), *too_still(found.world)]
    horizons = list(next(iter(found.scores.values()))["psnr"])
    for horizon in horizons:
        rows = [
            {"candidate": name, **{m: cell(each[m].get(horizon)) for m in SHOWN if m in each}}
            for name, each in found.scores.items()
        ]
        parts.append(f"frames {horizon}\n{table(rows)}")
    spent = {f"bits of an episode, {name}": round(value) for name, value in bits.items()}
    ours = next(iter(found.scores))
    gains = [
        {"above": name, **{f"frames {h}": cell(by["changing"].get(h)) for h in horizons}}
        for name, by in found.gains.items()
    ]
    parts.append(f"changing: dB of {ours} above each other one, paired by episode\n{table(gains)}")
    if found.distances:
        sets = [{"set": name, "distance": value} for name, value in found.distances.items()]
        parts.append(f"appearance distance to half of the real videos\n{table(sets)}")
    if ids:
        rows = [
            {"ids of": name, "nominal": f"{one['bits']:g}", "entropy": f"{one['entropy']:.2f}"}
            | {"commonest": f"{one['commonest']:.1%}"}
            for name, one in ids.items()
        ]
        parts.append(f"bits of an id, and its entropy by frequency alone\n{table(rows)}")
    said = [f"no {name}: {why}" for name, why in missing.items()]
    return "\n\n".join([*parts, facts(spent), *said])


def too_still(world: "WorldFacts") -> list[str]:
    """A line for episodes in which so little happens that a still picture does well."""
    said = []
    if world.changing < CHANGING:
        said.append(f"only {world.changing:.1%} of pixels change up to frame 8")
    if world.moving < MOVING:
        said.append(f"objects move in only {world.moving:.0%} of episodes")
    if not said:
        return []
    asked = f"{CHANGING:.0%} and {MOVING:.0%} or more are meant"
    return [f"note: {' and '.join(said)}, {asked}: more --frames show more"]


def cell(found: dict[str, Any] | None) -> str:
    """A mean, and half of its interval."""
    if found is None:
        return "-"
    low, high = found["low"], found["high"]
    half = "" if low is None else f" ±{(high - low) / 2:.2g}"
    return f"{found['mean']:.3g}{half}"
