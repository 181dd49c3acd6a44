"""Predictions for VLMEvalKit's sets of the paper, in the columns of the data sets.

Each set has predictions with a person's verdict, and, where its scorer asks a judge, the table that
the harness keeps of the judge's words: the scorer then compares them itself, and asks nobody.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Scored:
    """One set."""

    task: str
    rows: Rows
    right: Sequence[bool]
    dataset: Callable[[pd.DataFrame], Any]
    """The harness's set, whose ``evaluate`` scores; it is given the rows."""
    number: Callable[[Any], float]
    """What ``evaluate`` returned → the set's own accuracy, from 0 to 1."""
    judge: str = "exact_matching"
    judged: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    """Ending of a table's name → the columns that the judge's words fill."""
    left_out: int = 0
    """How many items the harness leaves out of its number."""
    told_judge: str = "none"
    """What the names of the scorer's tables say of its judge."""


LETTERS = {"A": "red", "B": "green", "C": "blue", "D": "grey"}
CHOSEN = ["B", "C", "A", "D", "D", "A"]
RIGHT = ["B", "A", "A", "D", "C", "B"]
VERDICTS = [True, False, True, True, False, False]


def _letters(**more: Sequence[Any]) -> Rows:
    return [
        {
            "index": 7 * number + 2,
            "question": f"Which colour has picture {number}?",
            **LETTERS,
            "answer": right,
            **{name: values[number] for name, values in more.items()},
            "prediction": chosen,
        }
        for number, (chosen, right) in enumerate(zip(CHOSEN, RIGHT, strict=True))
    ]


def _mcq(name: str, task: str) -> Callable[[pd.DataFrame], Any]:
    """Return a maker of one of the harness's sets with options, on the rows that are predicted."""

    def make(table: pd.DataFrame) -> Any:
        from vlmeval.dataset import image_mcq

        dataset = object.__new__(getattr(image_mcq, name))
        dataset.data, dataset.dataset_name = table.drop(columns="prediction"), task
        return dataset

    return make


def _plain(module: str, name: str) -> Callable[[pd.DataFrame], Any]:
    """Return a maker of a set whose scorer looks at its predictions only."""

    def make(table: pd.DataFrame) -> Any:
        import vlmeval.dataset as package

        __import__(f"{package.__name__}.{module}")
        return object.__new__(getattr(getattr(package, module), name))

    return make


def _overall(outcome: pd.DataFrame) -> float:
    return float(outcome["Overall"].iloc[0])


def _percent(outcome: pd.DataFrame) -> float:
    """Return the line Overall of a table by subject."""
    (name,) = {"Subject", "Task&Skill"} & set(outcome.columns)
    return float(outcome.loc[outcome[name] == "Overall", "acc"].iloc[0]) / 100


def _mathverse() -> Scored:
    rows = [
        {
            "index": n,
            "question": f"What is angle {n}?",
            "answer": str(n),
            "problem_index": str(40 + n),
            "problem_version": "Vision Only",
            "metadata": "{'subject': 'Plane Geometry', 'subfield': 'Angle'}",
            "prediction": f"it is {n}",
        }
        for n in range(5)
    ]
    right = [True, True, False, True, False]
    judged = {"_judge_extract": {"extract": ["x"] * 5}, "_judge_score": {"score": right}}
    return Scored(
        "MathVerse_MINI_Vision_Only",
        rows,
        right,
        _plain("image_vqa", "MathVerse"),
        lambda outcome: _overall(outcome) / 100,
        judge="judge",
        judged=judged,
        told_judge="judge",
    )


def _mathvision() -> Scored:
    answers = ["3", "B", "12", "D", "7"]
    words = ["3", "B", "13", "A", "7.0"]
    rows = [
        {
            "index": n,
            "question": f"How long is side {n}?",
            "choices": "['1', '2', '3', '4']" if answer in "ABCD" else "[]",
            "answer": answer,
            "category": "length",
            "prediction": f"I think {word}",
        }
        for n, (answer, word) in enumerate(zip(answers, words, strict=True))
    ]
    return Scored(
        "MathVision",
        rows,
        [True, True, False, False, True],
        _plain("image_vqa", "MathVision"),
        _percent,
        judge="judge",
        judged={"_judge": {"res": words, "log": ["Prefetch succeed"] * 5}},
        told_judge="judge",
    )


def _mathvista() -> Scored:
    kinds = [
        ("multi_choice", "text", "['red', 'green']", "green", "B", "B", True),
        ("multi_choice", "text", "['red', 'green']", "red", "A", "B", False),
        ("free_form", "integer", "", "7", "", "7", True),
        ("free_form", "integer", "", "7", "", "eight", False),
        ("free_form", "float", "", "1.5", "", "1.5", True),
        ("free_form", "float", "", "1.5", "", "1.4", False),
    ]
    rows = [
        {
            "index": n,
            "question": f"What is in picture {n}?",
            "question_type": kind,
            "answer_type": of,
            "choices": choices,
            "answer": answer,
            "answer_option": option,
            "task": "figure question answering",
            "skills": "['scientific reasoning']",
            "prediction": f"I think {word}",
        }
        for n, (kind, of, choices, answer, option, word, _) in enumerate(kinds)
    ]
    return Scored(
        "MathVista_MINI",
        rows,
        [right for *_, right in kinds],
        _plain("image_vqa", "MathVista"),
        _percent,
        judge="judge",
        judged={"_judge": {"res": [k[5] for k in kinds], "log": ["Prefetch succeed"] * 6}},
        told_judge="judge",
    )


def _logicvista() -> Scored:
    rows = [
        {
            "index": n,
            "question": f"What comes next in row {n}?",
            "answer": right,
            "skill": f"['{skill}']",
            "prediction": chosen,
        }
        for n, (chosen, right, skill) in enumerate(
            zip(
                CHOSEN,
                RIGHT,
                ["inductive", "deductive", "numerical", "spatial", "mechanical", "spatial"],
                strict=True,
            )
        )
    ]
    words = {"res": CHOSEN, "log": ["ok"] * 6, "hit": [int(hit) for hit in VERDICTS]}
    return Scored(
        "LogicVista",
        rows,
        VERDICTS,
        _plain("image_vqa", "LogicVista"),
        lambda out: float(out.loc[out["Task&Skill"] == "Overall", "acc"].iloc[0]) / 100,
        judged={"_exact_matching": words},
        told_judge="exact_matching",
    )


def _dynamath() -> Scored:
    right = [True, True, False, True, False, False]
    rows = [
        {
            "index": n,
            "question": f"How long is side {n}?",
            "answer": str(n),
            "answer_type": "float",
            "subject": "geometry",
            "knowledge_level": "high school",
            "qid": 2 * (n // 2),
            "varid": n % 2 + 1,
            "prediction": f"it is {n}",
        }
        for n in range(6)
    ]
    words = {"parse": [True] * 6, "extracted": ["1"] * 6, "correct": right}
    return Scored(
        "DynaMath",
        rows,
        right,
        _plain("dynamath", "Dynamath"),
        lambda out: float(out.loc[out["Setting"] == "Average", "Overall"].iloc[0]),
        judge="gpt-4o-mini",
        judged={"_gpt-4o-mini": words},
        told_judge="gpt-4o-mini",
    )


def _videommmu() -> Scored:
    kinds = [
        ("multiple-choice", "B", "B", True),
        ("multiple-choice", "A", "C", False),
        ("multiple-choice", "C", "Answer: C", True),
        # Right, but the scorer reads its list of candidates back from a table as one text.
        ("open", "12.5", "12.5", False),
        ("open", "9", "8", False),
        ("open", "7", " ", False),
    ]
    rows = [
        {
            "index": n,
            "id": f"validation_Biology_{n}",
            "question": f"What is shown in clip {n}?",
            "question_type": kind,
            "options": '["a cell", "a leaf", "a root"]',
            "answer": answer,
            "category": "Adaptation",
            "prediction": text,
        }
        for n, (kind, answer, text, _) in enumerate(kinds)
    ]
    return Scored(
        "VideoMMMU",
        rows,
        [right for *_, right in kinds],
        _plain("videommmu", "VideoMMMU"),
        lambda out: float(out.loc["acc", "Overall"]) / 100,
        left_out=1,
    )


def _mlvu() -> Scored:
    rows = [
        {
            "index": n,
            "question": f"What moves in clip {n}?",
            "candidates": "['red', 'green', 'blue', 'grey']",
            "answer": LETTERS[right],
            "task_type": ["plotQA", "count"][n % 2],
            "prediction": f"({chosen})",
        }
        for n, (chosen, right) in enumerate(zip(CHOSEN, RIGHT, strict=True))
    ]

    def number(outcome: Mapping[str, list[int]]) -> float:
        return sum(hits for hits, _ in outcome.values()) / sum(n for _, n in outcome.values())

    return Scored("MLVU_MCQ", rows, VERDICTS, _plain("mlvu", "MLVU_MCQ"), number)


def _video_holmes() -> Scored:
    rows = [
        {
            **row,
            "index": n,
            "question_type": "SR",
            "prediction": f"<answer>{row['prediction']}</answer>",
        }
        for n, row in enumerate(_letters())
    ]
    return Scored(
        "Video_Holmes",
        rows,
        VERDICTS,
        _plain("video_holmes", "Video_Holmes"),
        lambda outcome: float(outcome["total"]["acc"]),
    )


def _wemath() -> Scored:
    """One problem of two steps and one of three, scored without a judge."""
    keys = ["2steps_1", "2steps_2", "2steps_multi", "3steps_1", "3steps_2", "3steps_3"]
    right = [*VERDICTS, True]
    rows = [
        {
            **_letters()[n % 6],
            "index": n,
            "ID": key[0],
            "key": key,
            "knowledge concept": "Understanding Angles (Using a Protractor)",
            "answer": "B" if hit else "C",
            "prediction": "Answer: B",
        }
        for n, (key, hit) in enumerate(zip([*keys, "3steps_multi"], right, strict=True))
    ]

    def number(outcome: pd.DataFrame) -> float:
        """Return the mean of seven items: five are single steps, two the whole problems."""
        names = {"One-step(S1)": 5, "Two-step(S2)": 1, "Three-step(S3)": 1}
        shares = {name: float(outcome[name].iloc[0].strip("%")) / 100 for name in names}
        return sum(count * shares[name] for name, count in names.items()) / 7

    told = {"told_judge": "exact_matching"}
    return Scored("WeMath", rows, right, _mcq("WeMath", "WeMath"), number, **told)


def _sets() -> list[Scored]:
    exact = {"told_judge": "exact_matching"}
    cot = [
        {**row, "prediction": f"I look at it.\nAnswer: {row['prediction']}"} for row in _letters()
    ]
    pro, pro_cot = "MMMU_Pro_10c", "MMMU_Pro_10c_COT"
    return [
        Scored(
            "VStarBench",
            _letters(),
            VERDICTS,
            _mcq("ImageMCQDataset", "VStarBench"),
            _overall,
            **exact,
        ),
        Scored(pro, _letters(), VERDICTS, _mcq("MMMUProDataset", pro), _overall, **exact),
        Scored(
            pro_cot,
            cot,
            VERDICTS,
            _mcq("MMMUProDataset", pro_cot),
            _overall,
            told_judge="cotpost_exact_matching",
        ),
        _mathverse(),
        _mathvision(),
        _mathvista(),
        _logicvista(),
        _dynamath(),
        _videommmu(),
        _mlvu(),
        _video_holmes(),
        _wemath(),
    ]


SETS = _sets()
