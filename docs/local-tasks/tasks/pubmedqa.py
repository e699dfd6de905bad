"""PubMedQA's own files as an lm-eval data set."""

import json
from pathlib import Path

from datasets import Dataset


def load(data_files: dict[str, str], **_: object) -> dict[str, Dataset]:
    """The labelled questions whose ids are in the official test split, sorted by id: the file has all of one label
    first, and a limit would take those alone."""
    questions, test = (json.loads(Path(data_files[name]).read_text()) for name in ("questions", "test"))
    rows = [
        {
            "id": key,
            "question": questions[key]["QUESTION"],
            "contexts": "\n".join(questions[key]["CONTEXTS"]),
            "answer": test[key],
        }
        for key in sorted(test)
    ]
    return {"test": Dataset.from_list(rows)}
