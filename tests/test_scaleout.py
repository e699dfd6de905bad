"""Runs spread over Ray: the same records as a plain run, also where a node goes away; what stands in the way is said.

Of Ray itself there is a local cluster, and two nodes on one machine (`ray.cluster_utils`), on the transformers engine.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from bench import scaleout
from bench.errors import BenchError
from bench.failures import CellName, read_failures
from bench.job import Job, Limits, Outcome
from bench.lock import holder, locked
from bench.records import read_records
from bench.runner import Schedule
from bench.scaleout import _cluster, _Deal, _Room
from bench.suite import ShardedEngine
from tests.test_isolation import PLUGIN
from tests.test_run import ROOT, outcome, tiny_suite


@pytest.fixture
def ray_installed():
    pytest.importorskip("ray", reason="ray is not installed; pip install 'mergesafe[ray]'")


# What stands in the way


def refusal(address: str) -> str:
    """Why there is no cluster at that address."""
    with pytest.raises(BenchError) as refused, _cluster(address):
        pass
    return str(refused.value)


def test_without_ray_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "ray is not installed; pip install 'mergesafe[ray]'" in refusal("auto")


@pytest.mark.parametrize("address", ["ray://there:10001", "there", "there:port", "a b:1", ""])
def test_an_address_that_is_none_is_named(ray_installed, address):
    assert f"--ray {address!r}: take auto, local or the HOST:PORT of a cluster's head node" in refusal(address)


def test_an_address_where_nothing_answers_is_named_at_once(ray_installed):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    told = refusal(f"127.0.0.1:{port}")
    assert f"nothing answers at 127.0.0.1:{port} (" in told and "name the HOST:PORT that `ray start --head`" in told


def test_auto_without_a_cluster_says_how_to_have_one(ray_installed, monkeypatch):
    monkeypatch.setattr("ray.init", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("found none\nat all")))
    assert "cannot use the Ray cluster auto (found none); start one here with `ray start --head`" in refusal("auto")


def nodes(*resources: dict) -> SimpleNamespace:
    """Of Ray, what a room looks at."""
    total = sum((Counter(node) for node in resources), Counter())
    return SimpleNamespace(
        cluster_resources=lambda: total, nodes=lambda: [{"Alive": True, "Resources": node} for node in resources]
    )


def test_an_engine_takes_a_gpu_where_there_are_any_and_else_the_cpus_of_its_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    room = _Room(nodes({"GPU": 2, "CPU": 16}, {"CPU": 64}, {"GPU": 1, "CPU": 8}), ShardedEngine(memory=0.5))
    assert room.places() == 3 and room.options["num_gpus"] == 1
    room = _Room(nodes({"CPU": 11}, {"CPU": 3}), ShardedEngine())
    assert room.places() == 2 and room.options["num_cpus"] == 4 and room.options["num_gpus"] == 0


def test_a_sharded_engine_takes_its_gpus_of_one_node():
    room = _Room(
        nodes({"GPU": 8, "CPU": 64}, {"GPU": 5, "CPU": 64}, {"GPU": 1, "CPU": 8}), ShardedEngine(tensor_parallel=2)
    )
    assert room.places() == 6 and room.options["num_gpus"] == 2


def test_a_suite_that_asks_for_gpus_has_no_room_without_them():
    with pytest.raises(BenchError, match=r"asks for 1 of a node's GPUs \(engine.memory\) and no node of the Ray"):
        _Room(nodes({"CPU": 8}), ShardedEngine(memory=0.5))
    with pytest.raises(BenchError, match=r"asks for 4 of a node's GPUs \(engine.tensor_parallel\) and no node"):
        _Room(nodes({"GPU": 2, "CPU": 8}, {"GPU": 2, "CPU": 8}), ShardedEngine(tensor_parallel=4))


# How cells are dealt, with sites that only say so


NAMES = [
    CellName(suite="s", fingerprint="f" * 64, cell=str(number) * 64, method="ties", arm="task", seed=number)
    for number in range(3)
]


class Told:
    """A terminal that keeps what it is told."""

    def __init__(self):
        self.warnings = []

    def __getattr__(self, word):
        return lambda *given: None

    def warn(self, line):
        self.warnings.append(line)


class Lost(Exception):
    """What Ray raises when an actor is gone."""


class Actor:
    """A site of a script: it fails every cell with the reason given, or is lost with it where there is none."""

    def __init__(self, reasons: dict[int, str | None], starts: bool):
        self._reasons, self._starts, self._cells = reasons, starts, []
        self.give = SimpleNamespace(remote=self._cells.append)
        self.work = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._said))

    def _said(self):
        if not self._starts:
            yield Lost("no start")
        while True:
            yield ("next", "node")
            if (cell := self._cells.pop()) is None:
                return
            reason = self._reasons[cell.seed]
            yield ("failed", cell, reason, b"its log") if reason else Lost("gone")


def deal(out: Path, reasons: dict[int, str | None], starts: bool = True) -> tuple[Outcome, list[str]]:
    """Deal NAMES to such sites, on one node with room for one."""

    def get(said):
        if isinstance(said, Lost):
            raise said
        return said

    ray = nodes({"CPU": int(os.environ["OMP_NUM_THREADS"])})
    ray.remote = lambda _: SimpleNamespace(
        options=lambda **_: SimpleNamespace(remote=lambda *_: Actor(reasons, starts))
    )
    ray.wait, ray.get, ray.kill = (lambda sites, **_: (sites[:1], [])), get, lambda actor: None
    ray.exceptions = SimpleNamespace(RayError=Lost)
    suite = SimpleNamespace(engine=ShardedEngine())
    cells = [SimpleNamespace(fingerprint=name.cell, arm="task") for name in NAMES]
    setting = SimpleNamespace(suite=suite, conditions={})
    plan = Schedule(out, setting, {}, {name.cell: name for name in NAMES}, cells, Outcome("f"))
    terminal = Told()
    with locked(out) as held:
        _Deal(ray, Job((), (), (), out), Limits(), plan, terminal, held).deal()
    return plan.outcome, terminal.warnings


def test_a_cell_that_fails_is_noted_with_its_log_and_the_others_go_on(tmp_path):
    outcome, _ = deal(tmp_path, {0: "one", 1: "two", 2: "three"})
    assert list(outcome.failed.values()) == ["one", "two", "three"]
    assert {failure.reason for failure in read_failures(tmp_path)} == {"one", "two", "three"}
    assert NAMES[1].log(tmp_path).read_bytes() == b"its log"


def test_a_cell_that_costs_several_sites_is_given_up_and_the_others_go_on(tmp_path):
    outcome, warnings = deal(tmp_path, {0: "one", 1: None, 2: "three"})
    gone = "the engine on node was lost (Lost: gone)"
    assert outcome.failed[NAMES[1].label] == f"{gone}, as were 2 before it with this cell" and len(outcome.failed) == 3
    assert warnings == [f"{NAMES[1].label}: {gone}; the cell goes to another"] * 2


def test_a_cluster_where_no_engine_starts_is_one_sentence(tmp_path):
    with pytest.raises(BenchError, match=r"ended before it had started \(Lost: no start\), as were 2 before it"):
        deal(tmp_path, {}, starts=False)


def test_a_cluster_without_room_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(scaleout._Room, "places", lambda self: 0)
    with pytest.raises(
        BenchError, match=r"no node with the \d+ CPUs of an engine \(OMP_NUM_THREADS\); 3 cells are left"
    ):
        deal(tmp_path, {})


# The real thing


@pytest.fixture(scope="module")
def short(tmp_path_factory, parents) -> Path:
    """A suite that takes seconds once its engine is there, in a folder with techniques that misbehave."""
    folder = tmp_path_factory.mktemp("scaleout")
    path = tiny_suite(folder, parents, search={"tuner": "evomm", "groups": 2, "options": {"evaluations": 3}})
    data = yaml.safe_load(path.read_text())
    for spec in (*data["skill"]["domains"].values(), data["safety"]["unsafe"], data["safety"]["benign"]):
        spec["limit"] = 3
    path.write_text(yaml.safe_dump(data))
    (folder / "bad.py").write_text(PLUGIN)
    return path


def start(suite: Path, out: Path, *arguments: object) -> subprocess.Popen:
    """A run of the suite, with one thread an engine: a plain run with as many gives the same bits."""
    command = [sys.executable, "-m", "bench", "run", "--suite", suite, "--method", "ties,dare_ties,bad_nan,bad_dies"]
    command += ["--arms", "none,task", "--seed", "0,1", "--engine", "transformers"]
    command += ["--plugin", suite.parent / "bad.py", "--out", out, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MARKER": str(out.parent / f"{out.name}.marker")}
    environment["PYTHONPATH"] = str(ROOT)
    with out.with_suffix(".log").open("w") as log:
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, stdout=log, stderr=log)


def told(out: Path) -> str:
    return out.with_suffix(".log").read_text()


def scores(out: Path) -> tuple[dict, dict]:
    """Everything of the records but clock, memory and date; and why there is none of other cells."""
    records = {(record.method, record.arm, record.seed): outcome(record) for record in read_records(out)}
    return records, {failure.label: failure.reason for failure in read_failures(out)}


@pytest.fixture(scope="module")
def plain(short) -> tuple[dict, dict]:
    out = short.parent / "plain"
    assert start(short, out).wait() == 1, told(out)[-3000:]
    records, failures = scores(out)
    assert len(records) == 13 and len(failures) == 3
    return records, failures


@pytest.mark.slow
def test_two_local_engines_give_the_records_and_failures_of_a_plain_run(ray_installed, short, plain):
    out = short.parent / "local"
    assert start(short, out, "--ray", "local").wait() == 1, told(out)[-3000:]
    assert scores(out) == plain
    assert "ended by SIGSEGV; once more, in a new process" in told(out)
    assert list((out / "logs").glob("*bad_nan*")) and not (out / "stages").exists() and not list(out.rglob("*.tmp"))


@pytest.fixture
def two_nodes(ray_installed, tmp_path, monkeypatch):
    """A head without room for an engine, and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the environment of a node is its own
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    small = {"object_store_memory": 10**8, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    workers = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    yield cluster, workers
    cluster.shutdown()


@pytest.mark.slow
def test_a_node_and_an_engine_that_are_killed_midway_change_no_score(two_nodes, short, plain):
    cluster, (node, _) = two_nodes
    out = short.parent / "cluster"
    driver = start(short, out, "--ray", cluster.address)
    _wait(lambda: len(_at(out)) == 2, driver, out)
    cluster.remove_node(node, allow_graceful=False)
    _wait(lambda: "the cell goes to another" in told(out), driver, out)
    _wait(lambda: len(_at(out)) == 1 and list(out.glob("records/*")), driver, out)
    lost = told(out).count("was lost")
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::Site"):
            process.send_signal(signal.SIGKILL)
    _wait(lambda: told(out).count("was lost") > lost, driver, out)
    assert driver.wait() == 1, told(out)[-3000:]
    assert scores(out) == plain


def _at(out: Path) -> dict:
    return (holder(out) or {}).get("cells", {})


def _wait(for_what, driver: subprocess.Popen, out: Path) -> None:
    while driver.poll() is None and not for_what():
        time.sleep(0.2)
    assert driver.poll() is None, told(out)[-3000:]
