"""A pair's own prompt and decoding, put into what a task asks for."""

import copy
from collections.abc import Collection, Mapping
from typing import Any

from replay_adapters.settings.pairs import QUESTION, Protocol
from replay_core import UsageError
from replay_core.errors import shown

Messages = list[dict[str, Any]]

QUESTION_TYPE = "replay_question_type"
"""The field in which a document, or a question's part of a message, says of what kind it is."""


def edit_question(question: str, protocol: Protocol, kind: str | None = None) -> str:
    """Return a task's question as the pair asks it: in its template, with its suffixes behind.

    ``kind`` is the question's own, one of the protocol's ``type_suffixes``; the protocol's
    ``question_type`` where a task does not say.

    Raises:
        UsageError: the protocol has suffixes, but none for this kind.
    """
    if protocol.question_template is not None:
        question = protocol.question_template.replace(QUESTION, question)
    kind = (kind if protocol.type_suffixes else None) or protocol.question_type
    if kind is not None and kind not in protocol.type_suffixes:
        raise UsageError(
            f"a document's {QUESTION_TYPE} is {shown(kind)}, which has no suffix in the pair's "
            f"protocol (allowed: {', '.join(protocol.type_suffixes)})"
        )
    if kind is not None:
        question += protocol.type_suffixes[kind]
    return question + (protocol.user_suffix or "")


def edit_messages(
    messages: Messages,
    protocol: Protocol,
    kind: str | None = None,
    *,
    writes_system_prompt: bool = False,
) -> Messages:
    """Return chat messages with the pair's system prompt in front and its way to ask the question.

    A pair with words of its own replaces the task's system prompt, also where it has none itself:
    what such a prompt says about thoughts and answers is another format. (One without a user turn
    is all that there is, and stays.) Where the harness's class writes it
    (``writes_system_prompt``), the task's is only left out. The question is the last text of the
    last user turn; where there is none, as with pictures alone, what the pair adds to a question is
    a text of its own. The given messages are not changed.
    """
    edited = [
        {**m, "content": list(m["content"]) if isinstance(m["content"], list) else m["content"]}
        for m in messages
    ]
    asks = any(message["role"] == "user" for message in edited) and edit_question("", protocol)
    if protocol.system_prompt is not None or asks:
        edited = [message for message in edited if message["role"] != "system"]
    if protocol.system_prompt is not None and not writes_system_prompt:
        system = {"type": "text", "text": protocol.system_prompt}
        edited.insert(0, {"role": "system", "content": [system]})
    users = [message for message in edited if message["role"] == "user"]
    if users and isinstance(users[-1]["content"], str):
        users[-1]["content"] = edit_question(users[-1]["content"], protocol, kind)
        return edited
    parts = users[-1]["content"] if users else []
    edit_last_text(parts, protocol, "text", kind)
    if parts and not users:
        edited.append({"role": "user", "content": parts})
    return edited


def edit_last_text(
    parts: list[dict[str, Any]], protocol: Protocol, key: str, kind: str | None = None
) -> None:
    """Ask the last text among a turn's parts, which stands under ``key``, in the pair's way.

    Without a text the pair's own words become one behind the others, where it has any. The
    question's ``kind`` may also stand in its part, under ``QUESTION_TYPE``.
    """
    texts = [index for index, part in enumerate(parts) if part["type"] == "text"]
    if texts:
        part = parts[texts[-1]]
        kind = part.get(QUESTION_TYPE, kind)
        parts[texts[-1]] = {**part, key: edit_question(part[key], protocol, kind)}
    elif words := edit_question("", protocol, kind):
        parts.append({"type": "text", key: words})


def edited_request(
    request: Any,
    protocol: Protocol,
    *,
    chat: bool,
    command_line: Collection[str],
    writes_system_prompt: bool = False,
    documents: Mapping[str, Any] | None = None,
) -> Any:
    """Return a copy of one of lmms-eval's requests, as the protocol wants it.

    A chat class is given ``(context, doc_to_messages, generation, …)``, a simple one ``(context,
    generation, doc_to_visual, …)``. The pair's generation settings win over the task's, but not
    over those that the ``command_line`` names. Where the pair has a decoding or a mark for its
    answers, the task's ``until`` is dropped: lmms-eval's default, an empty line, ends a reasoning
    behind its first paragraph in the simple Qwen2-VL class. A copy also where the protocol is
    empty: that class takes ``until`` out of the settings it is given, so that ``--use_cache`` would
    look for one key and store another.

    ``documents`` is task → split → documents. One that says of what kind its question is, under
    ``QUESTION_TYPE``, is asked with that kind's suffix.
    """
    if chat:
        context, doc_to_messages, generation, *tail = request.arguments

        def asked(doc: Any, **arguments: Any) -> Messages:
            messages = doc_to_messages(doc, **arguments)
            kind = doc.get(QUESTION_TYPE) if isinstance(doc, Mapping) else None
            return edit_messages(
                messages, protocol, kind, writes_system_prompt=writes_system_prompt
            )

        question: tuple[Any, ...] = (context, asked)
    else:
        context, generation, *tail = request.arguments
        kind = _kind(documents, *tail[1:]) if documents and protocol.type_suffixes else None
        question = (edit_question(context, protocol, kind),)
    edited = copy.copy(request)
    edited.arguments = (*question, pairs_decoding(generation, protocol, command_line), *tail)
    return edited


def pairs_decoding(
    generation: Mapping[str, Any], protocol: Protocol, command_line: Collection[str]
) -> dict[str, Any]:
    """Return a task's generation settings with the pair's over them, but not over those that the
    ``command_line`` names."""
    long = "until" in generation and (protocol.generation or protocol.answer)
    decoding = {**({"until": []} if long else {}), **protocol.generation}
    ours = {k: v for k, v in decoding.items() if k not in command_line}
    return {**generation, **ours}


def _kind(documents: Mapping[str, Any], number: int, task: str, split: str) -> str | None:
    """Return what kind of question a document says it is; no other column of it is looked up."""
    rows = documents[task][split]
    if hasattr(rows, "column_names"):
        if QUESTION_TYPE not in rows.column_names:
            return None
        rows = rows.select_columns([QUESTION_TYPE])
    found: str | None = rows[number].get(QUESTION_TYPE)
    return found
