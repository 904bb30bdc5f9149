"""Token layouts: a small one, the published one of Emu3, and a hypothesis strategy."""

from __future__ import annotations

from hypothesis import strategies as st

from shared.tokens.layout import TokenLayout

CONTROL = ["pad", "bos", "eos", "img", "boi", "eoi", "eol", "eof"]
OPTIONAL = ["bss", "ess", "bog", "eog", "boc", "eoc"]

# Visual tokens 10 to 17, control tokens on both sides and next to them.
SMALL = TokenLayout(pad=0, bos=1, eos=2, img=3, boi=4, eoi=9, eol=18, eof=19, first_visual_token=10, codebook_size=8)
REAL = TokenLayout(
    pad=151643,
    bos=151849,
    eos=151850,
    img=151851,
    boi=151852,
    eoi=151853,
    eol=151846,
    eof=151847,
    first_visual_token=151854,
    codebook_size=32768,
)


@st.composite
def layouts(draw: st.DrawFn) -> TokenLayout:
    """Generate layouts with control tokens on both sides of the visual tokens, often next to them."""
    size = draw(st.sampled_from([1, 2, 32768, 131072]) | st.integers(1, 131072))
    first = draw(st.integers(0, 12) | st.integers(0, 200_000))
    near = st.integers(max(0, first - 8), first + 8)
    optional = draw(st.lists(st.sampled_from(OPTIONAL), unique=True))
    roles = [*CONTROL, *optional]
    ids = draw(st.lists(near | st.integers(0, 400_000), min_size=len(roles), max_size=len(roles), unique=True))
    outside = [token if token < first else token + size for token in ids]
    return TokenLayout(**dict(zip(roles, outside)), first_visual_token=first, codebook_size=size)
