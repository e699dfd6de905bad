"""Spreads the cells of a job over a Ray cluster: one engine a GPU, or group of GPUs, or of CPUs where there are none.

The driver plans, hands out cells and writes records and failures under OUT. On a node a *site* has the supervisor and
the worker that a run without Ray has (`bench.supervisor`), in a folder of its own; the worker asks for one cell after
another. A site that is lost, with its node or alone, costs time: its cell goes back to the driver.
"""

import os
import re
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bench.environment import DEFAULTS
from bench.errors import BenchError
from bench.failures import CellName, write_failure
from bench.job import Job, Limits, Outcome
from bench.lock import Held
from bench.records import read_record, write_atomically
from bench.runner import Schedule, finish, run
from bench.shared import Shared
from bench.suite import ShardedEngine
from bench.supervisor import Wire, supervise
from bench.terminal import Terminal, captured

TICK = 5.0  # seconds between looks at the cluster
REACH = 10.0  # seconds in which an address answers
LOSSES = 3  # sites that a cell may cost, or that may be lost in a row before an engine has started


def spread(job: Job, limits: Limits, address: str, terminal: Terminal) -> list[Outcome]:
    """Do a job on the cluster at HOST:PORT, on the one this machine belongs to (`auto`), or on this machine (`local`).

    The outcomes are those of `bench.runner.run`, and so are the errors. Raises BenchError, too, where there is no Ray,
    no such cluster, or no room for an engine.
    """
    with captured(job.out / "logs" / "run.log"), _cluster(address) as ray:
        return run(job, terminal, lambda plan, told, held: _Deal(ray, job, limits, plan, told, held).deal())


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected."""
    try:
        import ray
    except ImportError as error:
        raise BenchError("ray is not installed; pip install 'mergesafe[ray]', or leave --ray out") from error
    if address == "auto":  # as Ray takes it
        address = os.environ.get("RAY_ADDRESS") or "auto"
    if address not in ("auto", "local"):
        _reach(address)
    alone = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **alone)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().partition("\n")[0]
        remedy = "start one here with `ray start --head`, join it with `ray start --address`, or take --ray local"
        raise BenchError(f"cannot use the Ray cluster {address} ({reason}); {remedy}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise BenchError where nothing answers: Ray itself would try for minutes."""
    found = re.fullmatch(r"([^\s/:]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", address)
    if found is None:
        raise BenchError(f"--ray {address!r}: take auto, local or the HOST:PORT of a cluster's head node")
    host, port = found[1].strip("[]"), int(found[2])
    try:
        socket.create_connection((host, port), timeout=REACH).close()
    except (OSError, OverflowError) as error:
        raise BenchError(
            f"nothing answers at {address} ({error}); name the HOST:PORT that `ray start --head` printed, or take auto"
        ) from error


@dataclass
class _Site:
    """What the driver knows of one: the actor, its machine once the engine has started, the cell it is at."""

    actor: Any
    host: str | None = None
    cell: CellName | None = None


class _Deal:
    """The cells of one suite, and the sites that they are dealt to."""

    def __init__(self, ray: Any, job: Job, limits: Limits, plan: Schedule, terminal: Terminal, held: Held) -> None:
        self._ray, self._plan, self._terminal, self._held = ray, plan, terminal, held
        suite = plan.setting.suite
        self._room = _Room(ray, suite.engine)
        environment = {name: os.environ[name] for name in DEFAULTS}  # the same threads, or the last bits may differ
        given = replace(job, suites=(suite,)), limits, environment
        self._start = partial(ray.remote(Site).options(**self._room.options).remote, *given)
        self._sites: dict[Any, _Site] = {}  # by the generator of what it says
        self._waiting: deque[CellName] = deque()
        self._numbers: dict[str, int] = {}  # of cells, as they are first dealt
        self._lost: Counter[str] = Counter()
        self._unstarted, self._warned = 0, set()

    def deal(self) -> None:
        """Until every cell has its record or has failed."""
        shared = Shared(self._plan.out, self._plan.setting)
        for cell in self._plan.todo:
            name = self._plan.names[cell.fingerprint]
            if record := shared.record_of(cell):
                self._begin(name)
                self._done(name, record)
            else:
                self._waiting.append(name)
        try:
            self._staff()
            while self._sites:
                ready, _ = self._ray.wait(list(self._sites), num_returns=1, timeout=TICK)
                for generator in ready:
                    self._listen(generator)
                self._staff()
        finally:
            for site in self._sites.values():
                self._ray.kill(site.actor)
        self._terminal.rest()

    def _staff(self) -> None:
        """As many sites as there is room and work for; those that start too late for any are let go."""
        starting = [generator for generator, site in self._sites.items() if site.host is None]
        if not self._waiting:
            for generator in starting:
                self._ray.kill(self._sites.pop(generator).actor)
            return
        room = self._room.places() - len(self._sites)
        for _ in range(min(room, len(self._waiting) - len(starting))):
            actor = self._start()
            self._sites[actor.work.options(num_returns="streaming").remote()] = _Site(actor)
        if not self._sites:
            raise BenchError(f"the Ray cluster has {self._room.lack}; {len(self._waiting)} cells are left")
        if len(starting) == len(self._sites):
            self._terminal.at("ray", f"waiting for {len(self._sites)} engines to start")

    def _listen(self, generator: Any) -> None:
        site = self._sites[generator]
        try:
            word, *given = self._ray.get(next(generator))
        except StopIteration:
            del self._sites[generator]
            if site.cell is not None:  # our own mistake, told in its log
                self._lose(site, "it ended before the cell did")
        except self._ray.exceptions.RayError as error:
            del self._sites[generator]
            reason = str(error).strip().splitlines()[-1].partition(". ")[0][:300]  # the first sentence of the last line
            self._lose(site, f"{type(error).__name__}: {reason}")
        else:
            self._hear(site, word, given)

    def _hear(self, site: _Site, word: str, given: list[Any]) -> None:
        if word == "next":
            (site.host,), self._unstarted = given, 0
            self._hand(site)
        elif word == "done":
            name, record, log = given
            site.cell = None
            self._log(name, log)
            self._done(name, record)
        elif word == "failed":
            name, reason, log = given
            site.cell = None
            self._log(name, log)
            self._failed(name, reason)
        elif word == "refused":
            raise BenchError(given[0])
        elif word == "at":
            self._terminal.at(*given)
        elif word == "warn" and given[0] not in self._warned:
            self._warned.add(given[0])
            self._terminal.warn(given[0])

    def _hand(self, site: _Site) -> None:
        """The next cell, or word that there is none."""
        site.cell = self._waiting.popleft() if self._waiting else None
        if site.cell is not None:
            self._begin(site.cell)
        self._held.note(*(other.cell.cell for other in self._sites.values() if other.cell))
        site.actor.give.remote(site.cell)

    def _begin(self, name: CellName) -> None:
        number = self._numbers.setdefault(name.cell, len(self._numbers) + 1)
        self._terminal.begin(name, number, len(self._plan.todo))

    def _done(self, name: CellName, record: Any) -> None:
        finish(self._plan.out, name, record, self._terminal)
        self._plan.outcome.done += 1

    def _failed(self, name: CellName, reason: str) -> None:
        write_failure(self._plan.out, name, reason)
        self._plan.outcome.failed[name.label] = reason
        self._terminal.failed(name, reason)

    def _log(self, name: CellName, log: bytes | None) -> None:
        if log:
            write_atomically(name.log(self._plan.out), log, durable=False)

    def _lose(self, site: _Site, reason: str) -> None:
        """A site is gone. Its cell goes to another, unless it went with several."""
        before = f", as were {LOSSES - 1} before it"
        if site.host is None:
            self._unstarted += 1
            told = f"an engine on the Ray cluster ended before it had started ({reason})"
            if self._unstarted == LOSSES:
                raise BenchError(told + before)
            self._terminal.warn(f"{told}; another is started")
            return
        told = f"the engine on {site.host} was lost ({reason})"
        if site.cell is None:
            self._terminal.warn(told)
            return
        self._lost[site.cell.cell] += 1
        if self._lost[site.cell.cell] == LOSSES:
            self._failed(site.cell, f"{told}{before} with this cell")
        else:
            self._waiting.appendleft(site.cell)
            self._terminal.warn(f"{site.cell.label}: {told}; the cell goes to another")


class _Room:
    """How many engines the nodes hold: one a GPU, or a group of them for tensor parallelism, where there are any, else
    one for as many CPUs as it has threads."""

    def __init__(self, ray: Any, engine: ShardedEngine) -> None:
        self._ray, self._looked = ray, float("-inf")
        threads, gpu = int(os.environ["OMP_NUM_THREADS"]), ray.cluster_resources().get("GPU", 0) > 0
        gpus = engine.tensor_parallel or 1
        self._need = {"GPU": gpus, "CPU": gpus} if gpu else {"CPU": threads}
        asking = [key for key in ("tensor_parallel", "memory") if getattr(engine, key) is not None]
        if asking and not (gpu and self.places()):
            raise BenchError(
                f"the suite's engine asks for {gpus} of a node's GPUs (engine.{asking[0]}) and no node of the Ray "
                f"cluster has as many; start one that has, or remove engine.{asking[0]}"
            )
        self.options = {
            "num_gpus": self._need.get("GPU", 0),
            "num_cpus": self._need["CPU"],
            "max_concurrency": 2,  # it speaks, and is given cells meanwhile
            "scheduling_strategy": "SPREAD",
        }
        wanted = f"GPUs of an engine ({gpus})" if gpu else f"{threads} CPUs of an engine (OMP_NUM_THREADS)"
        self.lack = f"no node with the {wanted}"

    def places(self) -> int:
        """On the nodes that are alive now."""
        if time.monotonic() - self._looked > TICK:
            self._looked = time.monotonic()
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            held = [min(int(node.get(kind, 0) // amount) for kind, amount in self._need.items()) for node in nodes]
            self._places = sum(held)
        return self._places


class Site:
    """On a node: a supervisor, whose worker has an engine. An actor of Ray's."""

    def __init__(self, job: Job, limits: Limits, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._job, self._limits = job, limits
        self._cells: SimpleQueue[CellName | None] = SimpleQueue()
        self._said: SimpleQueue[tuple | None] = SimpleQueue()

    def give(self, cell: CellName | None) -> None:
        """The next cell to compute; None: there is no more."""
        self._cells.put(cell)

    def work(self) -> Iterator[tuple]:
        """What the supervisor and its worker say, as (word, *what is given), until they have no more to do.

        `done` comes with the record, `failed` with the reason, both with the cell's log where there is one."""
        with tempfile.TemporaryDirectory(prefix="mergesafe-") as folder:
            threading.Thread(target=self._supervise, args=(Path(folder),), daemon=True).start()
            while (said := self._said.get()) is not None:
                yield said

    def _supervise(self, folder: Path) -> None:
        try:
            supervise(replace(self._job, out=folder), self._limits, Wire(partial(self._say, folder)), self._turns())
        except BenchError as error:
            told = str(error).replace(str(folder), str(self._job.out))
            self._said.put(("refused", f"{told} (on {socket.gethostname()})"))
        finally:
            self._said.put(None)

    def _turns(self) -> Iterator[CellName]:
        while True:
            self._said.put(("next", socket.gethostname()))
            if (cell := self._cells.get()) is None:
                return
            yield cell

    def _say(self, folder: Path, said: tuple) -> None:
        word, *given = said
        if word in ("done", "failed"):  # what a cell leaves goes with the word, and nothing stays
            name = given[0]
            record, log = folder / "records" / name.file, name.log(folder)
            outcome = read_record(record) if word == "done" else given[1]
            given = [name, outcome, log.read_bytes() if log.exists() else None]
            for path in (record, folder / "failed" / name.file, log):
                path.unlink(missing_ok=True)
        self._said.put((word, *given))
