"""Triton kernel that rounds pixels to bytes.

Shape legend: T frames, H W rows and columns, M quads of a tile; a quad is 2x2 pixels, which share their chroma.
"""

import triton
import triton.language as tl


@triton.jit
def store_bytes(at, value, mask):
    """What `value` is rounded down to; it lies in [0, 256)."""
    tl.store(at, value.to(tl.int32).to(tl.uint8), mask=mask)


@triton.jit
def luma_of(r, g, b):
    """BT.709."""
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@triton.jit
def pack_quads(
    x_ptr,
    byte_ptr,
    height,
    width,
    quad_rows,
    quad_cols,
    x_frame,
    x_row,
    x_col,
    x_colour,
    pixel_offset,
    TILE_M: tl.constexpr,
    PLANES: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    """One tile of quads of one frame; programs are (tiles of quads, T).

    Bytes are (T, H, W, 3) of RGB, or with PLANES (T, 3H/2, W): luma, then chroma plane by plane, or number by number
    if INTERLEAVED. H and W are even then.
    """
    quad = tl.program_id(0) * TILE_M + tl.arange(0, TILE_M)
    frame = tl.program_id(1).to(tl.int64)
    row = quad // quad_cols * 2
    col = quad % quad_cols * 2
    whole = quad < quad_rows * quad_cols
    base = x_ptr + frame * x_frame
    r_sum = tl.full([TILE_M], 0.0, tl.float32)
    g_sum = tl.full([TILE_M], 0.0, tl.float32)
    b_sum = tl.full([TILE_M], 0.0, tl.float32)
    for pixel in tl.static_range(4):
        at_row = row + pixel // 2
        at_col = col + pixel % 2
        here = whole & (at_row < height) & (at_col < width)
        at = base + at_row.to(tl.int64) * x_row + at_col * x_col
        r = tl.load(at, mask=here, other=0.0).to(tl.float32)
        g = tl.load(at + x_colour, mask=here, other=0.0).to(tl.float32)
        b = tl.load(at + 2 * x_colour, mask=here, other=0.0).to(tl.float32)
        place = at_row.to(tl.int64) * width + at_col
        if PLANES:
            r = tl.minimum(tl.maximum(r + pixel_offset, 0.0), 1.0)
            g = tl.minimum(tl.maximum(g + pixel_offset, 0.0), 1.0)
            b = tl.minimum(tl.maximum(b + pixel_offset, 0.0), 1.0)
            r_sum += r
            g_sum += g
            b_sum += b
            out = byte_ptr + frame * (height * width * 3 // 2) + place
            store_bytes(out, 219.0 * luma_of(r, g, b) + 16.5, here)
        else:
            bias = 255.0 * pixel_offset + 0.5
            out = byte_ptr + (frame * height * width + place) * 3
            store_bytes(out, tl.minimum(tl.maximum(r * 255.0 + bias, 0.0), 255.0), here)
            store_bytes(out + 1, tl.minimum(tl.maximum(g * 255.0 + bias, 0.0), 255.0), here)
            store_bytes(out + 2, tl.minimum(tl.maximum(b * 255.0 + bias, 0.0), 255.0), here)
    if PLANES:
        luma = luma_of(r_sum, g_sum, b_sum)
        # A quarter of the sums is the mean of the quad.
        blue = (56.0 / 1.8556) * (b_sum - luma) + 128.5
        red = (56.0 / 1.5748) * (r_sum - luma) + 128.5
        chroma = byte_ptr + frame * (height * width * 3 // 2) + height * width
        if INTERLEAVED:
            store_bytes(chroma + quad * 2, blue, whole)
            store_bytes(chroma + quad * 2 + 1, red, whole)
        else:
            store_bytes(chroma + quad, blue, whole)
            store_bytes(chroma + quad_rows * quad_cols + quad, red, whole)
