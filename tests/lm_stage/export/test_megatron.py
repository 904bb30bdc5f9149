"""Megatron documents: the samples that training takes, in its order, and a loss mask of the same shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lm_stage.data.mixture import Mixture
from lm_stage.data.options import LossWeights
from lm_stage.export.job import export_sequences
from lm_stage.export.megatron import weight_dtype
from lm_stage.export.options import SequenceExportOptions
from tests.support.megatron_reader import read_documents
from tests.support.sequence_exports import ROW, open_mixture, trained_rows


def exported(options: SequenceExportOptions) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Export; return the tokens and the loss mask of every document."""
    result, out = export_sequences(options), Path(options.out)
    tokens, weights = read_documents(out / "tokens"), read_documents(out / "loss_mask")
    assert len(tokens) == len(weights) == result.documents
    assert [len(one) for one in tokens] == [len(one) for one in weights]
    assert sum(map(len, tokens)) == result.tokens
    assert sum(map(np.count_nonzero, weights)) == result.supervised
    return tokens, weights


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_document_is_a_sample_as_training_takes_it(options: SequenceExportOptions, epochs: int) -> None:
    options = replace(options, epochs=epochs)
    tokens, weights = exported(options)
    samples = [one for row in trained_rows(open_mixture(options), options)[0] for one in row]
    assert [one.tolist() for one in tokens] == [one.token_ids.tolist() for one in samples]
    assert [one.tolist() for one in weights] == [one.weights.tolist() for one in samples]
    assert {weights[0].dtype, *(one.dtype for one in weights)} == {np.dtype(np.uint8)}


def test_epochs_differ(options: SequenceExportOptions) -> None:
    tokens = [one.tolist() for one in exported(replace(options, epochs=2))[0]]
    assert tokens[: len(tokens) // 2] != tokens[len(tokens) // 2 :]


def test_a_document_may_be_a_row_as_training_packs_it(options: SequenceExportOptions, mixture: Mixture) -> None:
    tokens, weights = exported(replace(options, documents="row"))
    batch = trained_rows(mixture, options)[1]
    assert [one.tolist() for one in tokens] == batch.token_ids_BL.tolist()
    shifted = np.stack(weights)
    assert shifted.shape == batch.weights_BL.shape == (len(tokens), ROW)
    assert not shifted[:, 0].any(), "nothing predicts the first token of a row"
    assert np.array_equal(shifted[:, 1:], batch.weights_BL[:, :-1])


def test_other_weights_are_float32(options: SequenceExportOptions) -> None:
    options = replace(options, visual_weight=0.25)
    weights = exported(options)[1]
    samples = [one for row in trained_rows(open_mixture(options), options)[0] for one in row]
    assert [one.tolist() for one in weights] == [one.weights.tolist() for one in samples]
    assert {one.dtype for one in weights} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("weights", "dtype"),
    [
        (LossWeights(), "uint8"),
        (LossWeights("visual"), "uint8"),
        (LossWeights("visual", 2.0), "float32"),
        (LossWeights("text", 2.0), "uint8"),
        (LossWeights("after_prompt", 0.0), "uint8"),
    ],
)
def test_the_type_of_weights(weights: LossWeights, dtype: str) -> None:
    assert weight_dtype(weights) == dtype
