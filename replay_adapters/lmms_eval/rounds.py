"""Tasks of several rounds in the chat classes: all conversations' same round in shared batches.

lmms-eval's chat classes for transformers inherit a loop of the simple ones, which cannot read a
chat request; its own protocol for chat, as in its vLLM class, asks one conversation after the
other.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from replay_adapters.agents.conversation import Conversation, Messages
from replay_adapters.lmms_eval.batches import Asked, Rows, evens_out_ranks, key_of
from replay_adapters.lmms_eval.unreadable import guarded
from replay_adapters.session.session import Session, joined
from replay_adapters.settings.answers import final_answer
from replay_adapters.settings.benchmarks import answers_calls, form_taken, without_loop
from replay_adapters.settings.protocol import pairs_decoding
from replay_core import UsageError
from replay_core.record import ToolUse

# With replay_turns=reuse, how many batches' conversations are held at once: each keeps its x.
_WAVE = 4


@dataclass
class _Dialogue:
    """One request's conversation so far.

    ``info`` is what the task is given back with the texts, and ``following`` what it gave when it
    was told them: it may be asked twice about the same texts. ``places`` are the numbers of the
    turns' records among the document's.
    """

    request: Any
    repeat: int
    wanted: bool
    texts: list[str] = field(default_factory=list)
    info: Any = None
    following: Any = None
    places: list[int] = field(default_factory=list)
    over: bool = False

    def next(self, doc: Any) -> Any:
        """Return what the task says to the texts so far: (messages, terminal, outputs, info)."""
        ask = self.request.arguments[1]
        if not self.texts:
            return ask(doc), False, [], None
        so_far = {"previous_output": list(self.texts), "previous_round_info": self.info}
        said = ask(doc, round_idx=len(self.texts), **so_far)
        whole = isinstance(said, tuple) and len(said) == 4
        return said if whole else (None, True, list(self.texts), None)


def one_by_one(model: Any, requests: Sequence[Any], theirs: Callable[..., Any]) -> Any:
    """Return what the loop of the simple classes, ``theirs``, returns.

    Raises:
        UsageError: a conversation with a tool is asked, which these classes cannot hold.
    """
    tasks = {request.task_name for request in requests}
    for task in tasks:
        if model.settings.protocol.tools is not None or answers_calls(task):
            raise UsageError(
                f"task {task} is a conversation with a tool, which the simple class cannot hold; "
                "leave out --force_simple"
            )
    model.settings.check_tasks(tasks)
    with joined(model) as session:
        asked = [guarded(session, copy.copy(one), chat=False) for one in requests]
        with model.watching(session, Rows(session.looked_up, None), again=False):
            return theirs(asked)


def converse(model: Any, requests: Sequence[Any]) -> list[list[str]]:
    """Return each request's texts, round by round.

    Round r of all live conversations of a task is answered together, in the batches of the
    harness's class. A prompt is built when its batch is, so that no more pictures are held than a
    batch has.
    """
    by_task: defaultdict[str, list[_Dialogue]] = defaultdict(list)
    repeats: Counter[Any] = Counter()
    dialogues = []
    for request in requests:
        key = key_of(request)
        one = _Dialogue(request, repeats[key], not evens_out_ranks(request))
        repeats[key] += 1
        dialogues.append(one)
        by_task[request.task_name].append(one)
    model.settings.check_tasks(by_task, loop=True)
    reuse = model.settings.turns == "reuse"
    with joined(model) as session:
        for one_task in by_task.values():
            size = _WAVE * int(model.batch_size) if reuse else len(one_task)
            for start in range(0, len(one_task), size):
                _Rounds(model, session, one_task[start : start + size]).run()
    return [dialogue.texts for dialogue in dialogues]


class _Rounds:
    """Conversations of one task that go on in step."""

    def __init__(self, model: Any, session: Session, dialogues: Sequence[_Dialogue]) -> None:
        self._model, self._session, self._dialogues = model, session, dialogues

    def run(self) -> None:
        """Go on until every conversation is over; the model is left as it was found."""
        model = self._model
        system_prompt = getattr(model, "system_prompt", None)
        try:
            turn = 0
            while live := [one for one in self._dialogues if not one.over]:
                self._round(live, turn)
                turn += 1
        finally:
            model.answerer.stop = None
            model.answerer.forget(conversations=True)
            if model.writes_system_prompt:
                model.system_prompt = system_prompt
        by_document: defaultdict[Any, list[_Dialogue]] = defaultdict(list)
        for one in self._dialogues:
            by_document[key_of(one.request)].append(one)
        for key, several in by_document.items():
            if len(several) > 1:
                order = [place for one in several for place in one.places]
                self._session.records.arrange(*key, order)

    def _round(self, live: Sequence[_Dialogue], turn: int) -> None:
        records = self._session.records
        counts = Counter({key: records.count(*key) for key in {key_of(o.request) for o in live}})
        given = self._model.answered([self._request(one, turn) for one in live])
        for one, answer in zip(live, given, strict=True):
            one.texts.append(answer if isinstance(answer, str) else answer.text)
            if one.wanted:
                one.places.append(counts[key_of(one.request)])
                counts[key_of(one.request)] += 1
            self._go_on(one)

    def _request(self, one: _Dialogue, turn: int) -> Any:
        """Return the request for a conversation's next text."""
        context, _, generation, document, *tail = one.request.arguments

        def ask(doc: Any) -> Any:
            return self._prepared(one, one.next(doc)[0])

        settings = self._model.settings.protocol
        decoding = pairs_decoding(generation, settings, self._session.command_line)
        asked = copy.copy(one.request)
        place = Asked(document, one.repeat, turn, one.wanted)
        asked.arguments = (f"{context}\0{place}", ask, decoding, place, *tail)
        return guarded(self._session, asked, chat=True)

    def _prepared(self, one: _Dialogue, messages: Any) -> Any:
        """Return messages for the harness's class, which is told where decoding stops."""
        model = self._model
        talk = messages.conversation if isinstance(messages, Messages) else None
        if talk is None and (tools := model.settings.protocol.tools) is not None:
            raise UsageError(
                without_loop(one.request.task_name, model.settings.pair.name, tools.name)
            )
        model.answerer.stop = None if talk is None else (talk.tools.stop, model.tokenizer)
        if model.writes_system_prompt and messages and messages[0]["role"] == "system":
            model.system_prompt = "".join(part["text"] for part in messages[0]["content"])
            return messages[1:]
        return messages

    def _go_on(self, one: _Dialogue) -> None:
        """Ask the task whether a conversation goes on, and note what became of its last text."""
        key = key_of(one.request)
        if key in self._session.faults:
            one.over = True
            return
        _, _, _, document, task, split = one.request.arguments
        one.info = one.following
        _, one.over, _, one.following = one.next(self._model.task_dict[task][split][document])
        if isinstance(one.following, Conversation) and one.wanted:
            self._note(one, one.following, final=one.over)

    def _note(self, one: _Dialogue, talk: Conversation, *, final: bool) -> None:
        records, key, place = self._session.records, key_of(one.request), one.places[-1]
        turn = talk.turns[len(one.texts) - 1]
        if turn.box is not None or turn.told is not None:
            use = ToolUse(box=turn.box, crop=turn.crop, size=turn.size, told=turn.told)
            records.used(*key, place, use)
        answer = None
        if final:
            cut = records.cut(*key, place)
            marks, form = talk.protocol.answer, form_taken(one.request.task_name)
            answer = final_answer(turn.text, marks, form, cut=cut)
        records.took(*key, place, turn.text, answer)
