"""Rows of the paper's benchmarks in the sets' own schemas."""

import base64
from typing import Any

from tests.support import media
from tests.support.lab.answers import Written

COLOURS = ("red", "blue", "green", "grey", "black", "white", "brown", "pink", "gold", "teal")
QUESTION = "Which colour is the car"
Row = dict[str, Any]


def _options(count: int) -> list[str]:
    return list(COLOURS[:count])


def _listed(count: int = 4) -> str:
    return " ".join(f"({chr(65 + n)}) {colour}" for n, colour in enumerate(_options(count)))


def _question(number: int, one: Written) -> str:
    return f"{QUESTION} of line {number}?" if one.truth == "B" else f"How much is line {number}?"


def mathverse(number: int, one: Written) -> Row:
    asked = _question(number, one)
    if one.truth == "B":
        asked += f"\nChoices:\n{_listed()}"
    return {
        "sample_index": str(number),
        "problem_index": str(number),
        "problem_version": "Vision Only",
        "question": "",
        "image": media.png(seed=number),
        "answer": one.truth,
        "question_type": "multi-choice" if one.truth == "B" else "free-form",
        "metadata": {"split": "testmini", "source": "s", "subject": "g", "subfield": "a"},
        "query_wo": f"Please directly answer the question.\n{asked}",
        "query_cot": f"Please first conduct reasoning.\n{asked}",
        "question_for_eval": asked,
    }


def mathvision(number: int, one: Written) -> Row:
    return {
        "id": str(number),
        "question": f"{_question(number, one)}\n<image1>",
        "options": _options(5) if one.truth == "B" else [],
        "image": f"images/{number}.jpg",
        "decoded_image": media.png(seed=number),
        "answer": one.truth,
        "solution": None,
        "level": 3,
        "subject": "arithmetic",
    }


def mathvista(number: int, one: Written) -> Row:
    letter = one.truth == "B"
    whole = one.truth.isdigit()
    kind = "text" if letter else "integer" if whole else "float"
    facts = ("language", "source", "category", "task", "context", "grade", "split", "img_type")
    return {
        "pid": str(number),
        "question": _question(number, one),
        "image": f"images/{number}.jpg",
        "decoded_image": media.png(seed=number),
        "choices": _options(4) if letter else None,
        "unit": None,
        "precision": None if letter or whole else 1.0,
        "answer": "blue" if letter else one.truth,
        "question_type": "multi_choice" if letter else "free_form",
        "answer_type": kind,
        "metadata": {**dict.fromkeys(facts, "x"), "split": "testmini", "skills": ["arithmetic"]},
        "query": _question(number, one),
    }


def dynamath(number: int, one: Written) -> Row:
    letter = one.truth == "B"
    choices = f" Choices: {_listed()}" if letter else ""
    return {
        "id": str(number // 2),
        "question_id": str(number),
        "question": _question(number, one) + choices,
        "image": f"images/{number}.png",
        "decoded_image": media.png(seed=number),
        "ground_truth": one.truth,
        "answer_type": "multiple choice" if letter else "float",
        "subject": "arithmetic",
        "knowledge_level": "high school",
    }


def wemath(number: int, one: Written) -> Row:
    step = number % 3
    return {
        "ID": number // 3,
        "split": "testmini",
        "knowledge concept": "Colours",
        "question": _question(number, one),
        "option": "; ".join(f"{chr(65 + n)}. {each}" for n, each in enumerate(_options(4))),
        "answer": one.truth,
        "image_path": media.png(seed=number),
        "key": ("2steps_1", "2steps_2", "2steps_multi")[step],
        "question number": number,
        "knowledge concept description": "x",
    }


def logicvista(number: int, one: Written) -> Row:
    return {
        "index": number,
        "question": f"{_question(number, one)} {_listed()}",
        "answer": one.truth,
        "image": media.png(seed=number),
        "skill": "inductive",
    }


def _pictures(picture: bytes) -> Row:
    return {"image_1": picture, **{f"image_{other}": None for other in range(2, 8)}}


def mmmu(number: int, one: Written) -> Row:
    letter = one.truth == "B"
    return {
        "id": f"validation_Biology_{number}",
        "question": f"<image 1> {_question(number, one)}",
        "options": str(_options(4)) if letter else "[]",
        "explanation": "",
        **_pictures(media.png(seed=number)),
        "img_type": "['Photographs']",
        "answer": one.truth,
        "topic_difficulty": "Easy",
        "question_type": "multiple-choice" if letter else "open",
        "subfield": "Ecology",
    }


def mmmu_pro(number: int, one: Written) -> Row:
    return {
        "id": f"test_Biology_{number}",
        "question": f"<image 1> {_question(number, one)}",
        "options": str(_options(10)),
        "explanation": "",
        **_pictures(media.png(seed=number)),
        "img_type": "['Photographs']",
        "answer": one.truth,
        "topic_difficulty": "Easy",
        "subject": "Biology",
    }


def mmmu_pro_vision(number: int, one: Written) -> Row:
    return {
        "id": f"test_Biology_{number}",
        "image": media.png(seed=number),
        "options": str(_options(10)),
        "answer": one.truth,
        "subject": "Biology",
    }


def hrbench(number: int, one: Written) -> Row:
    return {
        "index": number,
        "question": _question(number, one),
        "image": base64.b64encode(media.png(seed=number)).decode(),
        "answer": one.truth,
        **dict(zip("ABCD", _options(4), strict=True)),
        "category": ("single", "cross")[number % 2],
        "cycle_category": str(number % 4),
    }


def vstar(number: int, one: Written) -> Row:
    return {
        "question_id": str(number),
        "text": f"{_question(number, one)}\n"
        + "\n".join(f"({chr(65 + n)}) {each}" for n, each in enumerate(_options(4))),
        "label": one.truth,
        "category": ("direct_attributes", "relative_position")[number % 2],
        "image": media.png(seed=number),
    }


def videommmu(number: int, one: Written) -> Row:
    letter = one.truth == "B"
    return {
        "id": f"validation_Biology_{number}",
        "question": _question(number, one),
        "options": _options(10) if letter else [],
        "answer": one.truth,
        "question_type": "multiple-choice" if letter else "open",
        "link_selected": "x",
    }


def video_holmes(number: int, one: Written) -> Row:
    return {
        "video ID": f"clip{number}",
        "Question ID": number,
        "Question Type": ("SR", "IMC", "TCI", "TA", "MHR", "PAR", "CTI")[number % 7],
        "Question": _question(number, one),
        "Options": dict(zip("ABCDEF", _options(6), strict=True)),
        "Answer": one.truth,
        "Explanation": "x",
    }


def mmvu(number: int, one: Written) -> Row:
    letter = one.truth == "B"
    choices = dict(zip("ABCDE", _options(5) if letter else [""] * 5, strict=True))
    return {
        "id": f"validation_{number}",
        "video_path": f"Biology/{number}.mp4",
        "question_type": "multiple-choice" if letter else "open-ended",
        "question": _question(number, one),
        "choices": choices,
        "answer": one.truth,
        "metadata": {"subject": "Biology"},
    }


def mlvu(number: int, one: Written) -> Row:
    kinds = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
    return {
        "video_name": f"{number}.mp4",
        "duration": 8.0,
        "question": f"{_question(number, one)}\n"
        + "\n".join(f"({chr(65 + n)}) {each}" for n, each in enumerate(_options(4))),
        "candidates": _options(4),
        "answer": one.truth,
        "task_type": kinds[number % 7],
    }
