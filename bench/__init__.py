"""From a suite file to records: checkpoints, engines, cells, scores."""

from bench.environment import prepare

prepare()
