"""Remake the small results that tests compare with; look at the difference before committing."""

import json
from pathlib import Path

from reeltok.cli.main import overview
from reeltok.worlds.push import play

HERE = Path(__file__).parent


def remake_help() -> None:
    """What `reeltok --help` prints."""
    (HERE / "help.txt").write_text(overview() + "\n")


def remake_push() -> None:
    """Where gripper and objects are in two simulated episodes, in metres."""
    each = [play(0, number, frames=30).truth for number in range(2)]
    kept = [
        {
            "gripper": t.gripper[:, :3].astype(float).round(5).tolist(),
            "objects": t.objects[..., :3].astype(float).round(5).tolist(),
        }
        for t in each
    ]
    said = json.dumps({"episodes": kept})
    (HERE / "push.json").write_text(said + "\n")


if __name__ == "__main__":
    remake_help()
    remake_push()
