"""Samples from questions and answers about the images and videos of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lm_stage.data.dataset_samples import DatasetSamples, row_texts
from lm_stage.data.sequences import EncodedTexts, SequenceBuilder, TrainingSequence
from lm_stage.text.templates import CHAT, default_question
from shared.dataset.conversations import Conversation, Turn, without_media_marks
from shared.dataset.rows import KINDS
from shared.errors import DatasetError, RefusedInput


def row_conversations(
    where: str, extra_json: str | None, caption: str | None, is_video: bool
) -> Iterator[Conversation]:
    """Yield the conversations of a row, or its `question` and `answer`, or a question that each caption answers.

    One without turns stands for empty `conversations`. Media marks are dropped: the image comes first.
    Raises DatasetError, beginning with `where`, if `extra_json` is not what the encode job writes.
    """
    try:
        extra = json.loads(extra_json) if extra_json else {}
        question, answer, stored = extra.get("question"), extra.get("answer"), extra.get("conversations")
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"{where}: extra_json: expected a JSON object: {error}") from error
    if stored is not None:
        for one in [stored, *(extra.get("other_conversations") or [])]:
            yield _stored_conversation(where, one)
        return
    question = default_question(is_video) if question is None else question
    answers = row_texts(caption, extra_json) if answer is None else [answer]
    if not isinstance(question, str) or not isinstance(answers[0], str):
        raise DatasetError(f"{where}: extra_json: expected strings as `question` and `answer`")
    yield from (Conversation((Turn(question, one),)) for one in answers)


def _stored_conversation(where: str, stored: object) -> Conversation:
    if stored in ([], {}, ""):  # datasets of version 0.1 may contain any empty value
        return Conversation(())
    try:
        read = Conversation.from_json(stored)
    except RefusedInput as error:
        raise DatasetError(f"{where}: {error.detail}; encode it again without that conversation") from error
    turns = (Turn(without_media_marks(turn.question), without_media_marks(turn.answer)) for turn in read.turns)
    return Conversation(tuple(turns), read.system)


class AnsweredRows(DatasetSamples):
    """Images and videos with their conversations, each a sample; one without an answer, or an empty one, is skipped."""

    def __init__(self, path: Path, builder: SequenceBuilder, keeps_damaged: bool):
        super().__init__(path, builder, KINDS, keeps_damaged)
        read = self._conversations(path)
        answered = [(index, one) for index, one in read if one.turns and all(turn.answer for turn in one.turns)]
        self.without_text: Sequence[str] = sorted(set(self.keys) - {self.keys[index] for index, _ in answered})
        self.select([index for index, _ in answered])
        self.conversations = [one for _, one in answered]

    def _conversations(self, path: Path) -> Iterator[tuple[int, Conversation]]:
        """Yield the conversations of all rows, each with the index of its row."""
        columns = self.keys, self.column("extra_json"), self.column("text"), self.is_video
        for index, (key, *fields) in enumerate(zip(*columns)):
            try:
                yield from [(index, one) for one in row_conversations(f"{path}: row {key!r}", *fields)]
            except DatasetError:
                if not self.rows.is_damaged(int(self.row_indices[index])):
                    raise
                yield index, Conversation((Turn("", "damaged"),))  # only counted: reading it raises DatasetError


class AnswerSamples(AnsweredRows):
    """Questions and answers, turn after turn, about an image or a clip."""

    def __init__(self, path: Path, builder: SequenceBuilder, keeps_damaged: bool):
        super().__init__(path, builder, keeps_damaged)
        turns = [(number, turn) for one in self.conversations for number, turn in enumerate(one.turns)]
        questions = (CHAT.question_text(turn.question, number, follows_grid=True) for number, turn in turns)
        openings = (CHAT.opening(one.system) for one in self.conversations)
        self.openings = EncodedTexts(openings, len(self.conversations), builder.encode, path.name)
        self.questions = EncodedTexts(questions, len(turns), builder.encode, path.name)
        self.answers = EncodedTexts((turn.answer for _, turn in turns), len(turns), builder.encode, path.name)
        self._first_turn = np.concatenate(([0], np.cumsum([len(one.turns) for one in self.conversations], dtype=int)))
        tokens_before_turn = np.concatenate(([0], np.cumsum(self.questions.lengths + self.answers.lengths + 1)))
        spoken = np.diff(tokens_before_turn[self._first_turn])
        self.lengths = 1 + self.openings.lengths + self.grid_lengths() + spoken
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
