"""Names of published checkpoints and of our networks, in both directions."""

from __future__ import annotations

import pytest

from tests.support.ibq_shapes import published_shapes
from vq_stage.model.ibq_config import IbqConfig
from vq_stage.model.tensor_names import hugging_face_name, taming_name


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("encoder.down.4.attn.3.norm.weight", "encoder.down_block.down.4.attn_norms.3.weight"),
        ("encoder.down.4.attn.3.q.bias", "encoder.down_block.down.4.attn.3.q_proj.bias"),
        ("decoder.up.0.block.4.conv1.weight", "decoder.up_block.up.0.block.4.conv1.weight"),
        ("decoder.mid.attn_1.norm.bias", "decoder.middle_block.attn_norm.bias"),
        ("decoder.mid.attn_1.proj_out.weight", "decoder.middle_block.attn_1.out_proj.weight"),
        ("quantize.embedding.weight", "quantize.embedding.weight"),
    ],
)
def test_names_of_layers(published: str, ours: str) -> None:
    assert hugging_face_name(published) == ours
    assert taming_name(ours) == published


def test_every_published_name_is_renamed_back() -> None:
    names = list(published_shapes(IbqConfig()))
    ours = [hugging_face_name(name) for name in names]
    assert [taming_name(name) for name in ours] == names
    assert [hugging_face_name(name) for name in ours] == ours
