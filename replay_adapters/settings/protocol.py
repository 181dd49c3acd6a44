"""A pair's own prompt and decoding, put into what a task asks for."""

import copy
from collections.abc import Collection, Mapping
from typing import Any

from replay_adapters.settings.pairs import QUESTION, Protocol

Messages = list[dict[str, Any]]


def edit_question(question: str, protocol: Protocol) -> str:
    """Return a task's question as the pair asks it: in its template, with its suffixes behind."""
    if protocol.question_template is not None:
        question = protocol.question_template.replace(QUESTION, question)
    if protocol.question_type is not None:
        question += protocol.type_suffixes[protocol.question_type]
    return question + (protocol.user_suffix or "")


def edit_messages(
    messages: Messages, protocol: Protocol, *, writes_system_prompt: bool = False
) -> Messages:
    """Return chat messages with the pair's system prompt in front and its way to ask the question.

    The system prompt replaces one that the task has; where the harness's class writes it
    (``writes_system_prompt``), the task's is only left out. The question is the last text of the
    last user turn; where there is none, as with pictures alone, what the pair adds to a question is
    a text of its own. The given messages are not changed.
    """
    edited = [
        {**m, "content": list(m["content"]) if isinstance(m["content"], list) else m["content"]}
        for m in messages
    ]
    if protocol.system_prompt is not None:
        edited = [message for message in edited if message["role"] != "system"]
        if not writes_system_prompt:
            system = {"type": "text", "text": protocol.system_prompt}
            edited.insert(0, {"role": "system", "content": [system]})
    users = [message for message in edited if message["role"] == "user"]
    if users and isinstance(users[-1]["content"], str):
        users[-1]["content"] = edit_question(users[-1]["content"], protocol)
        return edited
    parts = users[-1]["content"] if users else []
    edit_last_text(parts, protocol, "text")
    if parts and not users:
        edited.append({"role": "user", "content": parts})
    return edited


def edit_last_text(parts: list[dict[str, Any]], protocol: Protocol, key: str) -> None:
    """Ask the last text among a turn's parts, which stands under ``key``, in the pair's way.

    Without a text the pair's own words become one behind the others, where it has any.
    """
    texts = [index for index, part in enumerate(parts) if part["type"] == "text"]
    if texts:
        part = parts[texts[-1]]
        parts[texts[-1]] = {**part, key: edit_question(part[key], protocol)}
    elif words := edit_question("", protocol):
        parts.append({"type": "text", key: words})


def edited_request(
    request: Any,
    protocol: Protocol,
    *,
    chat: bool,
    command_line: Collection[str],
    writes_system_prompt: bool = False,
) -> Any:
    """Return a copy of one of lmms-eval's requests, as the protocol wants it.

    A chat class is given ``(context, doc_to_messages, generation, …)``, a simple one ``(context,
    generation, doc_to_visual, …)``. The pair's generation settings win over the task's, but not
    over those that the ``command_line`` names. A copy also where the protocol is empty: the simple
    Qwen2-VL class takes ``until`` out of the settings it is given, so that ``--use_cache`` would
    look for one key and store another.
    """
    if chat:
        context, doc_to_messages, generation, *tail = request.arguments

        def asked(doc: Any, **arguments: Any) -> Messages:
            messages = doc_to_messages(doc, **arguments)
            return edit_messages(messages, protocol, writes_system_prompt=writes_system_prompt)

        question: tuple[Any, ...] = (context, asked)
    else:
        context, generation, *tail = request.arguments
        question = (edit_question(context, protocol),)
    edited = copy.copy(request)
    edited.arguments = (*question, pairs_decoding(generation, protocol, command_line), *tail)
    return edited


def pairs_decoding(
    generation: Mapping[str, Any], protocol: Protocol, command_line: Collection[str]
) -> dict[str, Any]:
    """Return a task's generation settings with the pair's over them, but not over those that the
    ``command_line`` names."""
    ours = {k: v for k, v in protocol.generation.items() if k not in command_line}
    return {**generation, **ours}
