"""Samples from questions and answers about the images and videos of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lm_stage.data.dataset_samples import DatasetSamples, row_texts
from lm_stage.data.sequences import EncodedTexts, SequenceBuilder, TrainingSequence
from lm_stage.text.templates import default_question
from shared.dataset.columns import KINDS
from shared.dataset.conversations import Conversation, Turn, without_media_marks
from shared.errors import RefusedInput, UsageError
from shared.storage.small_files import parse_json_object
from shared.text import is_text


def row_conversations(
    extra_json: str | None, caption: str | None, is_video: bool, on_unusable: Callable[[str], None]
) -> Iterator[Conversation]:
    """Yield the conversations of a row, or its `question` and `answer`, or a question that each caption answers.

    One without turns stands for empty `conversations`. Media marks are dropped: the image comes first.
    Conversations in a form that the encode job does not write are left out, and `on_unusable` receives the reason.
    """
    try:
        extra = parse_json_object(extra_json, "extra_json") if extra_json else {}
    except UsageError as error:
        on_unusable(str(error))
        return
    question, answer, stored = extra.get("question"), extra.get("answer"), extra.get("conversations")
    if stored is not None:
        others = extra.get("other_conversations") or []
        for one in [stored, *(others if isinstance(others, list) else [others])]:
            try:
                yield _stored_conversation(one)
            except RefusedInput as error:
                on_unusable(error.detail)
        return
    question = default_question(is_video) if question is None else question
    for text in row_texts(caption, extra_json) if answer is None else [answer]:
        if is_text(question) and is_text(text):
            yield Conversation((Turn(question, text),))
        else:
            on_unusable("extra_json: expected texts as `question` and `answer`")


def _stored_conversation(stored: object) -> Conversation:
    """Read a conversation; those of earlier versions may need the repairs of the encode job. Raises RefusedInput."""
    if stored in ([], {}, ""):  # datasets of version 0.1 may contain any empty value
        return Conversation(())
    try:
        read = Conversation.from_json(stored)
    except RefusedInput:
        read = Conversation.parse(stored)
    turns = tuple(Turn(without_media_marks(turn.question), without_media_marks(turn.answer)) for turn in read.turns)
    if not all(map(is_text, [read.system or "", *(text for turn in turns for text in (turn.question, turn.answer))])):
        raise RefusedInput("bad_entry", "`conversations`: contains half of a surrogate pair, which is not text")
    return Conversation(turns, read.system)


class AnsweredRows(DatasetSamples):
    """Images and videos with their conversations, each a sample; one without an answer, or an empty one, is skipped.

    `unusable` has the keys of the rows whose conversations were left out, with the reasons.
    """

    def __init__(self, path: Path, builder: SequenceBuilder, keeps_damaged: bool):
        super().__init__(path, builder, KINDS, keeps_damaged)
        self.unusable: list[tuple[str, str]] = []
        read = self._conversations()
        answered = [(index, one) for index, one in read if one.turns and all(turn.answer for turn in one.turns)]
        used = {self.keys[index] for index, _ in answered}
        self.without_text: Sequence[str] = sorted(set(self.keys) - used - {key for key, _ in self.unusable})
        self.select([index for index, _ in answered])
        self.conversations = [one for _, one in answered]

    def _conversations(self) -> Iterator[tuple[int, Conversation]]:
        """Yield the conversations of all rows, each with the index of its row."""
        columns = self.keys, self.column("extra_json"), self.column("text"), self.is_video
        for index, (key, extra_json, text, is_video) in enumerate(zip(*columns)):
            reasons: list[str] = []
            yield from [(index, one) for one in row_conversations(extra_json, text, is_video, reasons.append)]
            if reasons and self.rows.is_damaged(int(self.row_indices[index])):
                yield index, Conversation((Turn("", "damaged"),))  # only counted: reading it raises DatasetError
            elif reasons:
                self.unusable.append((key, "; ".join(reasons)))


class AnswerSamples(AnsweredRows):
    """Questions and answers, turn after turn, about an image or a clip."""

    def __init__(self, path: Path, builder: SequenceBuilder, keeps_damaged: bool):
        super().__init__(path, builder, keeps_damaged)
        turns = [(number, turn) for one in self.conversations for number, turn in enumerate(one.turns)]
        chat = builder.prompting.chat
        questions = (chat.question_text(turn.question, number, follows_grid=True) for number, turn in turns)
        openings = (chat.opening(one.system) for one in self.conversations)
        self.openings = EncodedTexts(openings, len(self.conversations), builder.encode, path.name)
        self.questions = EncodedTexts(questions, len(turns), builder.encode, path.name)
        self.answers = EncodedTexts((turn.answer for _, turn in turns), len(turns), builder.encode, path.name)
        self._first_turn = np.concatenate(([0], np.cumsum([len(one.turns) for one in self.conversations], dtype=int)))
        spoken = self.questions.lengths + self.answers.lengths + builder.tokens_around - 1  # without BOS
        tokens_before_turn = np.concatenate(([0], np.cumsum(spoken)))
        turns_lengths = np.diff(tokens_before_turn[self._first_turn])
        self.lengths = 1 + self.openings.lengths + self.grid_lengths() + turns_lengths
        self.captionless_lengths = self.lengths

    def sequence(self, index: int, drop_caption: bool) -> TrainingSequence:
        turns = range(self._first_turn[index], self._first_turn[index + 1])
        encoded = [(self.questions[turn], self.answers[turn]) for turn in turns]
        return self.builder.conversation(encoded, self.grid(index), self.openings[index])


class AnswerTexts(AnsweredRows):
    """The answers alone as plain text, one line for each turn: neither questions, system prompt nor image."""

    has_videos = False

    def __init__(self, path: Path, builder: SequenceBuilder, keeps_damaged: bool):
        super().__init__(path, builder, keeps_damaged)
        texts = ("\n".join(turn.answer for turn in one.turns) for one in self.conversations)
        self.texts = EncodedTexts(texts, len(self.conversations), builder.encode, path.name)
        self.lengths = self.texts.lengths + 2  # BOS and EOS
        self.captionless_lengths = self.lengths

    def sequence(self, index: int, drop_caption: bool) -> TrainingSequence:
        self.rows.check(int(self.row_indices[index]))
        return self.builder.text(self.texts[index])
