"""LeRobot's data sets, version 3: many episodes in one mp4, cut by a table of time stamps.

The layout is that of LeRobot (codebase_version v3.0): `meta/info.json` names the videos and where
they lie, `meta/episodes` says in which file and between which seconds an episode is.
"""

from pathlib import Path
from typing import Any

from reeltok.data.clip import Clip
from reeltok.files.parsing import read_object

INFO = "meta/info.json"
PLACE = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def is_lerobot(folder: Path) -> bool:
    """Whether a folder is such a data set."""
    return (folder / INFO).is_file() and (folder / "meta" / "episodes").is_dir()


def read_episodes(folder: Path) -> list[Clip]:
    """A clip for each episode and camera; its group is the camera, its caption the tasks.

    Needs pyarrow. ValueError for another version, and for tables that do not say where videos lie.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    info = read_object(folder / INFO)
    version = str(info.get("codebase_version", ""))
    if not version.startswith("v3."):
        raise ValueError(
            f"{folder} is a LeRobot data set of version {version or '(none)'}: convert it to v3.0"
        )
    features = info.get("features")
    named = features.items() if isinstance(features, dict) else ()
    cameras = [key for key, about in named if (about or {}).get("dtype") == "video"]
    if not cameras:
        raise ValueError(
            f"the LeRobot data set {folder} has no videos: its features are {features}"
        )
    rows: list[dict[str, Any]] = []
    for file in sorted((folder / "meta" / "episodes").rglob("*.parquet")):
        try:
            rows += pq.read_table(file).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}): copy it again") from error
    template = str(info.get("video_path") or PLACE)
    return [_clip(folder, template, row, camera) for row in rows for camera in cameras]


def _clip(folder: Path, template: str, row: dict[str, Any], camera: str) -> Clip:
    """One episode as one camera saw it."""
    about = f"videos/{camera}/"
    try:
        chunk, file = int(row[f"{about}chunk_index"]), int(row[f"{about}file_index"])
        start, end = (float(row[f"{about}{which}_timestamp"]) for which in ("from", "to"))
        inner = template.format(video_key=camera, chunk_index=chunk, file_index=file)
        episode = int(row["episode_index"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the episodes of {folder} do not say where {camera} lies ({error}): copy meta/ again"
        ) from error
    tasks = row.get("tasks") or []
    said = "; ".join(str(task) for task in tasks) if isinstance(tasks, list) else str(tasks)
    return Clip(
        path=folder / inner,
        name=f"{camera}/episode_{episode:06d}",
        start=start,
        end=end,
        group=camera,
        source=f"episode_{episode:06d}",
        row={"caption": said, "episode_index": str(episode), "video_key": camera},
    )
