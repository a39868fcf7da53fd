"""Shards made on a Ray cluster of two nodes, of which one is killed; and by a driver that is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpus_clips import build, opener, write_clips

from reeltok.corpus import Cluster, Corpus, Shaping

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ray = pytest.importorskip("ray", reason="needs ray (extra ray)")
SHAPING = Shaping(frames=9)
LENGTHS = (18, 9, 3, 27, 9, 9, 18, 9, 9, 9, 18, 9)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two nodes on this machine, each with one CPU."""
    from ray.cluster_utils import Cluster as Nodes

    # Other programs that fill the memory must not have Ray kill its workers here.
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    if ray.is_initialized():
        ray.shutdown()
    cluster.shutdown()


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_node_that_is_killed_costs_nothing(tmp_path: Path, nodes: Any) -> None:
    clips = write_clips(tmp_path / "clips", LENGTHS)
    (clips / "broken.mp4").write_bytes(b"nothing")
    build(clips, tmp_path / "local", SHAPING, clips_each=1)
    second = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    done: list[int] = []

    def kill(count: int) -> None:
        done.append(count)
        if len(done) == 2:
            nodes.remove_node(second, allow_graceful=False)

    ray.init(address=nodes.address, log_to_driver=False)
    made = build(clips, tmp_path / "ray", SHAPING, clips_each=1, engine=Cluster(), on_clips=kill)
    assert (made.made, made.missing, sum(done)) == (13, 0, 13)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
    names = [row.id for row in Corpus(tmp_path / "ray")]
    assert len(names) == len(set(names)) == 16


DRIVER = """
import sys
sys.path[:0] = {paths!r}
from corpus_clips import build
from reeltok.corpus import Cluster, Shaping
build({clips!r}, {out!r}, Shaping(frames=9), clips_each=1, engine=Cluster(address={address!r}))
"""


def test_a_driver_that_is_killed_is_started_again(tmp_path: Path, nodes: Any) -> None:
    clips = write_clips(tmp_path / "clips", LENGTHS)
    out = tmp_path / "ray"
    build(clips, tmp_path / "local", SHAPING, clips_each=1)
    here = Path(__file__).parent
    text = DRIVER.format(
        paths=[str(here), str(here.parent)], clips=str(clips), out=str(out), address=nodes.address
    )
    driver = subprocess.Popen([sys.executable, "-c", text])
    until = time.monotonic() + 120
    while not list(out.glob("shard-*.json")) and time.monotonic() < until:
        assert driver.poll() is None, "the driver ended before it was killed"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    made_before = len(list(out.glob("shard-*.json")))
    assert 0 < made_before < len(LENGTHS)
    made = build(clips, out, SHAPING, clips_each=1, engine=Cluster(address=nodes.address))
    assert made.missing == 0
    assert 0 < made.made <= len(LENGTHS) - made_before
    assert files_of(out) == files_of(tmp_path / "local")


def test_actors_encode_what_tasks_decode(tmp_path: Path, nodes: Any) -> None:
    """GPUs are only counted by Ray: an actor that asks for one encodes where there is none."""
    clips = write_clips(tmp_path / "clips", (18, 9, 3, 27))
    build(clips, tmp_path / "local", SHAPING, clips_each=2, held=opener())
    nodes.add_node(num_cpus=3, num_gpus=1)
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False)
    build(clips, tmp_path / "ray", SHAPING, clips_each=2, engine=Cluster(gpus=1))
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
