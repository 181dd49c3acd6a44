"""The final answers that lmms-eval's scorers are given in place of a pair's whole texts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from replay_adapters.lmms_eval.batches import key_of
from replay_adapters.session.session import Session
from replay_adapters.settings.answers import AnswerFormat, final_answer
from replay_adapters.settings.benchmarks import form_taken


class Finals:
    """Takes the final answers out of the texts for ``requests``, and notes both in the records.

    Made before the requests are answered: what the session's records hold of a document by then is
    of others.
    """

    def __init__(self, session: Session, requests: Sequence[Any], marks: AnswerFormat) -> None:
        records = session.records
        self._records, self._requests, self._marks = records, requests, marks
        self._forms = {
            name: form_taken(name, session.scorers.get(name, ""))
            for name in {request.task_name for request in requests}
        }
        self._seen = Counter({key_of(one): records.count(*key_of(one)) for one in requests})

    def of(self, texts: Sequence[Any]) -> list[Any]:
        """Return what the scorers are given for ``texts``, one per request; as they are where the
        pair's protocol does not say how an answer is marked."""
        if not self._marks:
            return list(texts)
        return [self._of(*pair) for pair in zip(self._requests, texts, strict=True)]

    def _of(self, request: Any, given: Any) -> Any:
        key = key_of(request)
        at, self._seen[key] = self._seen[key], self._seen[key] + 1
        text = given if isinstance(given, str) else given.text
        cut = self._records.cut(*key, at)
        answer = final_answer(text, self._marks, self._forms[request.task_name], cut=cut)
        self._records.took(*key, at, text, answer)
        return answer if isinstance(given, str) else replace(given, text=answer)
