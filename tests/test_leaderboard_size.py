"""A thousand records of 700 outcomes become tables, plots and a site in a gigabyte; the time is printed."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from test_leaderboard import make_record, parent_records, store

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_thousand_records_take_less_than_a_gigabyte(tmp_path: Path) -> None:
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
    command = [sys.executable, "-m", "bench", "leaderboard", "--out", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)  # of this child alone: others that tests start are larger
    assert status == 0
    print(f"{used.ru_utime + used.ru_stime:.0f} s of the processor, {used.ru_maxrss / 2**10:.0f} MiB")
    assert used.ru_maxrss < 2**20  # KiB
