"""A thousand records of 700 outcomes become tables, plots and a site in a minute and a gigabyte."""

import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from test_leaderboard import make_record, parent_records, store

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_thousand_records_take_less_than_a_minute_and_a_gigabyte(tmp_path: Path) -> None:
    rng = random.Random(0)
    for place in range(8):
        about = {"fingerprint": f"{place:02x}" * 32, "suite": f"suite{place}", "n": 175}
        records = parent_records(**about)
        records += [
            make_record(f"sweep:{i / 8:g}", "none", harmful=i / 8, skill={"math": i / 8, "chem": i / 8}, **about)
            for i in range(9)
        ]
        cells = [(m, arm, seed) for m in range(13) for arm in ("none", "task", "task+safety") for seed in range(3)]
        for method, arm, seed in cells[: 125 - len(records)]:
            rates = {"harmful": rng.random(), "skill": {"math": rng.random(), "chem": rng.random()}}
            records.append(make_record(f"method{method}", arm, seed, **rates, **about))
        store(tmp_path, records)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "bench", "leaderboard", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, not by the clock: other work on the machine must not fail this.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    assert after.ru_maxrss < 2**20  # KiB; nothing else these tests start is larger
