"""The items of MMVU that are multiple-choice questions."""

from datasets import Dataset


def multiple_choice(documents: Dataset) -> Dataset:
    """Return the documents that ask for an option."""
    kinds = documents["question_type"]
    return documents.select([n for n, kind in enumerate(kinds) if kind == "multiple-choice"])
