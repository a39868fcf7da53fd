"""Remake the small results that tests compare with; look at the difference before committing."""

from pathlib import Path

from reeltok.cli.main import overview

HERE = Path(__file__).parent


def remake_help() -> None:
    """What `reeltok --help` prints."""
    (HERE / "help.txt").write_text(overview() + "\n")


if __name__ == "__main__":
    remake_help()
