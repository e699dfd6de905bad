"""`publish`: verified records -> `leaderboards/published/<suite>/`, where the public site is built from.

Nothing is copied unless every record passes, alone and beside those published before. `SHA256SUMS` is written anew, so
that later changes to a published file show.
"""

import hashlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.errors import BenchError
from bench.records import Record, write_atomically, write_record
from leaderboards.build import PUBLISHED
from leaderboards.verify import SUMS, Verified, verify


def publish(found: Verified, to: Path = PUBLISHED, answers: bool = False) -> list[Path]:
    """Copy verified records into a folder for each suite, and return these folders.

    answers: keep what models said to safety prompts; without it, nobody can judge them again. Raises BenchError where
    a record has a fault, or where one does not fit those that are there."""
    if found.faults:
        raise BenchError(f"{len(found.faults)} faults in these records; `python -m bench verify` names them")
    suites: dict[str, list[Record]] = {}
    for record in found.records.values():
        suites.setdefault(record.suite, []).append(record if answers else without_answers(record))
    ready: dict[Path, Path] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, records in suites.items():
            ready[to / name] = _together(Path(temporary), to / name, records)
        for folder, made in ready.items():
            for path in sorted(made.glob("*")):
                write_atomically(folder / path.name, path.read_bytes())
    return list(ready)


def without_answers(record: Record) -> Record:
    """The same record with no word that a model said to a safety prompt."""
    return record.model_copy(update={"prompts": [replace(one, response="") for one in record.prompts]})


def _together(temporary: Path, folder: Path, records: list[Record]) -> Path:
    """The folder as it will be, made apart and verified."""
    made = temporary / "records" / folder.name
    made.mkdir(parents=True)
    if any(folder.glob("*.json")):
        _must_pass(folder, verify(folder))
    for path in sorted(folder.glob("*.json")):
        shutil.copy(path, made)
    for record in records:
        shutil.copy(write_record(temporary / folder.name, record), made)
    _must_pass(folder, verify(made))
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(made.glob("*.json"))}
    write_atomically(made / SUMS, "".join(f"{sha256}  {name}\n" for name, sha256 in hashes.items()))
    return made


def _must_pass(folder: Path, found: Verified) -> None:
    if found.faults:
        raise BenchError(f"with what {folder} holds already: {found.faults[0].file}: {found.faults[0].reason}")
