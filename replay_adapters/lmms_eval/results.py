"""Read a finished run back from lmms-eval's own files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_core import UsageError
from replay_core.jsonl import finished_lines


@dataclass(frozen=True)
class Run:
    """One evaluation: its files, replay's settings and totals, and every sample by document."""

    results_file: Path
    samples_file: Path
    results: dict[str, Any]
    samples: dict[int, dict[str, Any]]

    @property
    def replay(self) -> dict[str, Any]:
        """The settings and totals that the plugin wrote."""
        found: dict[str, Any] = self.results["replay"]
        return found

    def scores(self, metric: str) -> dict[int, float]:
        """Return document → score."""
        return {document: float(sample[metric]) for document, sample in self.samples.items()}

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all samples."""
        return [record for sample in self.samples.values() for record in sample["replay"]]


def read_run(folder: Path, task: str) -> Run:
    """Return the newest run of ``task`` below ``folder``.

    Raises:
        UsageError: there is none, it was made without ``--log_samples``, or its samples are cut.
    """
    found = sorted(folder.rglob(f"*_samples_{task}.jsonl"))
    if not found:
        raise UsageError(
            f"{folder} holds no samples of task {task}; run lmms_eval with --output_path and "
            "--log_samples"
        )
    samples_file = found[-1]
    stamp = samples_file.name.removesuffix(f"_samples_{task}.jsonl")
    results_file = samples_file.with_name(f"{stamp}_results.json")
    lines = finished_lines(samples_file)
    samples = {sample["doc_id"]: sample for sample in lines}
    results = json.loads(results_file.read_text(encoding="utf-8"))
    return Run(results_file, samples_file, results, samples)
