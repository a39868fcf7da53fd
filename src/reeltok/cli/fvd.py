"""`fvd`: how far generated videos are from real ones."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from reeltok.cli import options as given
from reeltok.cli.evaluate import BrokenOption, PlanOption
from reeltok.cli.progress import Progress
from reeltok.cli.report import Report, facts, note_all, save_record
from reeltok.files.places import check_result
from reeltok.wording import left_out

if TYPE_CHECKING:
    from reeltok.evaluate.protocols import Protocol
    from reeltok.evaluate.sets import SetDistances


def fvd(
    made: Annotated[str, typer.Argument(metavar="MADE", show_default=False)],
    real: Annotated[str, typer.Argument(metavar="REAL", show_default=False)],
    *,
    protocol: PlanOption = "ucf-128",
    out: given.ResultOption = None,
    max_broken: BrokenOption = 5,
    device: given.DeviceOption = "auto",
    force: given.ForceOption = False,
) -> Report:
    """Compare generated videos with real ones as two sets, by FVD.

    MADE and REAL are folders or lists. Clips are cut and scaled as the protocol says; a metric
    whose network has no weight file reads "no weights". Also prints the appearance distance.
    """
    check_result(out, force=force, inputs=[made, real])
    from reeltok.data.find import find_clips
    from reeltok.devices import pick_device
    from reeltok.evaluate.protocols import find_protocol
    from reeltok.evaluate.sets import lossy_codec, set_distances

    note_all(said_of_codec(lossy_codec(made)))
    plan = find_protocol(protocol)
    total = sum(min(len(find_clips(data)), plan.clips or 10**9) for data in (made, real))
    with Progress("comparing", total) as progress:
        found = set_distances(
            real,
            made,
            plan,
            device=pick_device(device),
            max_broken=max_broken,
            progress=lambda clip: progress.finish_file(),
        )
    note_all(said_of_sets(found, plan))
    record = {"protocol": plan.name, "version": plan.version, **asdict(found)}
    if out is not None:
        save_record(record, out)
    shown = {"protocol": plan.name, "real clips": found.real, "made clips": found.made}
    shown |= {name: f"{value:.4g}" for name, value in found.distances.items()}
    shown |= {name: f"no weights ({why})" for name, why in found.missing.items()}
    shown |= {name: f"no distance ({why})" for name, why in found.too_few.items()}
    return Report(data=record, text=facts(shown))


def said_of_sets(found: "SetDistances", plan: "Protocol") -> list[str]:
    """What is said of the clips that were compared: how many, how long, of which rate."""
    said = [left_out(name, why) for name, why in found.broken.items()]
    for name, count in (("real", found.real), ("made", found.made)):
        if plan.clips is not None and count < plan.clips:
            said.append(f"{count} {name} clips, {plan.name} has {plan.clips:,}: not comparable")
    if found.filled:
        total = found.real + found.made
        said.append(f"{found.filled} of {total} clips are too short and repeat their last frame")
    said += [
        f"clips of both sets that are too short for {name} and do not count: {number}"
        for name, number in found.without.items()
    ]
    if found.real_sizes != found.made_sizes:
        said.append(
            f"real clips are {listed(found.real_sizes)} pixels and made ones "
            f"{listed(found.made_sizes)}: scale them alike, or the distance is of sizes too"
        )
    if found.off_rate:
        said.append(
            f"{found.off_rate} of {found.made} made clips are not at the {plan.fps:g} frames per "
            f"second of {plan.name}: each frame is judged as it is, none is resampled in time"
        )
    if plan.repeats > 1:
        said.append(
            f"{plan.name} is measured {plan.repeats} times, on other made clips: this is once"
        )
    return said


def listed(sizes: list[str]) -> str:
    """Sizes in a sentence, the first of many."""
    return ", ".join([*sizes[:3], *(["others"] if len(sizes) > 3 else [])])


def said_of_codec(codec: str | None) -> list[str]:
    """What is said of made videos that went through a lossy `codec`; nothing without one."""
    if codec is None:
        return []
    return [
        f"MADE are {codec}: what that loses counts as the generator's; `reeltok generate "
        "--lossless` keeps all"
    ]
