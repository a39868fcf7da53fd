"""Cuts between scenes, found by PySceneDetect (extra `scenes`) in frames as they are decoded."""

from collections.abc import Iterator
from itertools import groupby

from reeltok.corpus.runs import DecodedRun

SHORTEST = 15  # frames between two cuts at least: PySceneDetect's own default


def split_scenes(runs: Iterator[DecodedRun]) -> Iterator[Iterator[DecodedRun]]:
    """The runs of a clip, cut where a scene ends; each scene is to be taken before the next.

    ContentDetector with its defaults, but that a cut counts where it is seen: what comes less than
    SHORTEST frames after another does not count.
    """
    for _, scene in groupby(numbered(runs), key=lambda each: each[0]):
        yield (run for _, run in scene)


def numbered(runs: Iterator[DecodedRun]) -> Iterator[tuple[int, DecodedRun]]:
    """The runs in pieces that lie in one scene, each with the scene's number."""
    from scenedetect import ContentDetector, FrameTimecode
    from scenedetect.detector import FlashFilter

    finder = ContentDetector(min_scene_len=SHORTEST, filter_mode=FlashFilter.Mode.SUPPRESS)
    scene = 0
    for run in runs:
        begin = 0
        for at, frame in enumerate(run.frames.numpy()):
            bgr = frame[:, :, ::-1].copy()
            if finder.process_frame(FrameTimecode(run.first + at, 25.0), bgr):
                if at > begin:
                    yield scene, run[begin:at]
                scene, begin = scene + 1, at
        yield scene, run[begin:]
