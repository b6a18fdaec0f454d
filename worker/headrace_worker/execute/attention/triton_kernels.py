# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False, disable-error-code=possibly-undefined
"""Paged attention in Triton: softmax over tiles of a sequence's past, a running maximum at a time (Milakov and Gimelshein,
"Online normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022).

Triton compiles these functions, so that they are written in its part of Python. A name in an annotation is fixed when it does.
"""

import triton
import triton.language as tl


# What differs from step to step is not specialized on: that would compile anew between two steps.
@triton.jit(do_not_specialize=["first_sequence", "table_row"])
def attend_tiles(  # noqa: PLR0913, PLR0915 a kernel cannot be handed an object
    out,
    query,
    keys,
    values,
    sinks,
    part_sums,
    part_stats,
    tables,
    query_starts,
    contexts,
    scale,
    softcap,
    first_sequence,
    table_row,
    query_row,
    query_head,
    window: tl.constexpr,
    has_softcap: tl.constexpr,
    has_sinks: tl.constexpr,
    group: tl.constexpr,
    kv_heads: tl.constexpr,
    head_dim: tl.constexpr,
    value_dim: tl.constexpr,
    dim_pad: tl.constexpr,
    value_pad: tl.constexpr,
    block_size: tl.constexpr,
    tokens: tl.constexpr,
    rows: tl.constexpr,
    tile: tl.constexpr,
    splits: tl.constexpr,
):
    """One program: ``tokens`` tokens of a sequence, the heads of one K/V head, one of ``splits`` parts of their past.

    Grid: (sequences, kv_heads, most tiles of tokens * splits). ``rows`` >= tokens * group; row r is token r // group.
    With ``splits`` 1 ``out`` is written, else what ``merge_parts`` wants.
    """
    sequence = first_sequence + tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2) % splits
    first = tl.program_id(2) // splits * tokens
    begin = tl.load(query_starts + sequence)
    count = tl.load(query_starts + sequence + 1) - begin
    if first >= count:
        return
    context = tl.load(contexts + sequence)

    row = tl.arange(0, rows)
    token = first + row // group
    head = kv_head * group + row % group
    is_row = (row < tokens * group) & (token < count)
    own = context - count + token
    dims = tl.arange(0, dim_pad)
    value_dims = tl.arange(0, value_pad)
    is_dim = dims < head_dim
    is_value_dim = value_dims < value_dim
    query_at = (begin + token).to(tl.int64) * query_row + head * query_head
    q = tl.load(query + query_at[:, None] + dims[None, :], mask=is_row[:, None] & is_dim[None, :], other=0.0)

    # Seen by any of the tokens: [lowest, end), of which this program takes its part.
    past = context - count + first
    end = tl.minimum(context, past + tokens)
    lowest = 0
    if window > 0:
        lowest = tl.maximum(past - window + 1, 0) // tile * tile
    if splits > 1:
        span = tl.cdiv(tl.cdiv(end - lowest, tile), splits) * tile
        lowest += split * span
        end = tl.minimum(end, lowest + span)

    highest = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    sums = tl.zeros([rows, value_pad], tl.float32)
    for start in range(lowest, end, tile):
        place = start + tl.arange(0, tile)
        there = place < end
        block = tl.load(tables + sequence * table_row + place // block_size, mask=there, other=0)
        slot = block.to(tl.int64) * block_size + place % block_size
        entry = slot * kv_heads + kv_head
        k = tl.load(keys + entry[None, :] * head_dim + dims[:, None], mask=is_dim[:, None] & there[None, :], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        if has_softcap:
            # tanh, which not every version of Triton has.
            scores = softcap * (2 * tl.sigmoid(2 * scores / softcap) - 1)
        seen = there[None, :] & (place[None, :] <= own[:, None])
        if window > 0:
            seen = seen & (place[None, :] > own[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
        above = tl.maximum(highest, tl.max(scores, 1))
        # A row that has seen nothing yet, of a window or of those that fill the tile up.
        base = tl.where(above == float("-inf"), 0.0, above)
        weights = tl.exp(scores - base[:, None])
        fade = tl.exp(highest - base)
        v = tl.load(
            values + entry[:, None] * value_dim + value_dims[None, :],
            mask=there[:, None] & is_value_dim[None, :],
            other=0.0,
        )
        total = total * fade + tl.sum(weights, 1)
        sums = tl.dot(weights.to(v.dtype), v, sums * fade[:, None], input_precision="ieee")
        highest = above

    at = (begin + token).to(tl.int64) * (kv_heads * group) + head
    is_result = is_row[:, None] & is_value_dim[None, :]
    if splits > 1:
        part = at * splits + split
        tl.store(part_sums + part[:, None] * value_dim + value_dims[None, :], sums, mask=is_result)
        tl.store(part_stats + part * 2, highest, mask=is_row)
        tl.store(part_stats + part * 2 + 1, total, mask=is_row)
    else:
        if has_sinks:
            sink = tl.load(sinks + head, mask=is_row, other=0.0).to(tl.float32)
            above = tl.maximum(highest, sink)
            fade = tl.exp(highest - above)
            total = total * fade + tl.exp(sink - above)
            sums = sums * fade[:, None]
        result = sums / total[:, None]
        tl.store(out + at[:, None] * value_dim + value_dims[None, :], result.to(out.dtype.element_ty), mask=is_result)


@triton.jit
def merge_parts(  # noqa: PLR0913 a kernel cannot be handed an object
    out,
    part_sums,
    part_stats,
    sinks,
    has_sinks: tl.constexpr,
    heads: tl.constexpr,
    value_dim: tl.constexpr,
    value_pad: tl.constexpr,
    splits: tl.constexpr,
):
    """One program: one head of one row, out of its ``splits`` parts. Grid: (rows, heads)."""
    head = tl.program_id(1)
    at = tl.program_id(0).to(tl.int64) * heads + head
    part = at * splits + tl.arange(0, splits)
    highest = tl.load(part_stats + part * 2)
    total = tl.load(part_stats + part * 2 + 1)
    above = tl.max(highest, 0)
    if has_sinks:
        sink = tl.load(sinks + head).to(tl.float32)
        above = tl.maximum(above, sink)
    fade = tl.exp(highest - above)
    whole = tl.sum(total * fade, 0)
    if has_sinks:
        whole += tl.exp(sink - above)
    value_dims = tl.arange(0, value_pad)
    is_value_dim = value_dims < value_dim
    sums = tl.load(part_sums + part[:, None] * value_dim + value_dims[None, :], mask=is_value_dim[None, :], other=0.0)
    result = tl.sum(sums * fade[:, None], 0) / whole
    tl.store(out + at * value_dim + value_dims, result.to(out.dtype.element_ty), mask=is_value_dim)
