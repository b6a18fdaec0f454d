/* Weights made INT8 or INT4: which step and which least weight each block gets.
 *
 * Sixteen outputs side by side, each with a search of its own: the grids that GGUF's Q8_0, Q4_0 and
 * Q4_1 have, so that weights that were on one stay what they are, and grids around that over the
 * block's range, each fitted to its numbers by least squares. The one with the least error is taken.
 */
#ifndef HEADRACE_QUANTIZE_H
#define HEADRACE_QUANTIZE_H

#include <stdbool.h>

#include "weights.h"

/* Grids that are tried around the one over the range: so many steps, each with so many least weights. */
#define STEPS 5
#define LEASTS 4

typedef struct {
    vec step, least;
    vec error; /* sum of squares over the block */
} Grid;

/* Of one block. */
typedef struct {
    vec x[BLOCK];
    vec low, high;
    float most; /* numbers are 0 to this */
} Weights;

/* To the nearest that float16 has, and no further than its largest. */
static inline vec round_float16(vec x) {
    const ivec sign = (ivec)x & INT32_MIN;
    vec size = (vec)((ivec)x & INT32_MAX);
    size = choose(size < splat(65504.0f), size, splat(65504.0f));
    const ivec normal = ((ivec)size + 0xfff + (((ivec)size >> 13) & 1)) & ~0x1fff;
    const vec small = (size + 0.5f) - 0.5f; /* multiples of 2^-24 */
    return (vec)((ivec)choose(size < splat(0x1p-14f), small, (vec)normal) | sign);
}

/* Of a number that float16 has. */
static uint16_t float16_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    return (uint16_t)(sign | (fabsf(x) < 0x1p-14f ? (uint32_t)(fabsf(x) * 0x1p24f) : (size >> 13) - (112 << 10)));
}

static inline vec inverse_of(vec step) { return choose(step > splat(0), 1.0f / step, splat(0)); }

/* The number whose weight is closest to ``x``. */
static inline vec number_of(vec x, vec least, vec inverse, float most) {
    const vec magic = splat(12582912.0f);
    vec number = ((x - least) * inverse + magic) - magic;
    number = vmax(number, splat(0));
    return choose(number < splat(most), number, splat(most));
}

/* Take a grid where it is better than the best so far. */
static void consider(const Weights *w, Grid *best, vec step, vec least) {
    Grid grid = {round_float16(step), round_float16(least), splat(0)};
    const vec inverse = inverse_of(grid.step);
    for (int k = 0; k < BLOCK; k++) {
        const vec off = number_of(w->x[k], grid.least, inverse, w->most) * grid.step + grid.least - w->x[k];
        grid.error += off * off;
    }
    const ivec better = grid.error < best->error;
    best->step = choose(better, grid.step, best->step);
    best->least = choose(better, grid.least, best->least);
    best->error = choose(better, grid.error, best->error);
}

/* The same, with the step and the least weight that fit the numbers of a grid best. */
static void consider_fitted(const Weights *w, Grid *best, vec step, vec least) {
    const vec inverse = inverse_of(step);
    vec x = {0}, n = {0}, nn = {0}, xn = {0};
    for (int k = 0; k < BLOCK; k++) {
        const vec number = number_of(w->x[k], least, inverse, w->most);
        x += w->x[k];
        n += number;
        nn += number * number;
        xn += number * w->x[k];
    }
    const vec spread = (float)BLOCK * nn - n * n;
    const ivec is_line = spread > splat(0);
    step = choose(is_line, ((float)BLOCK * xn - x * n) / spread, step);
    least = choose(is_line, (nn * x - n * xn) / spread, least);
    consider(w, best, step, least);
}

/* Q8_0 leaves number 0 out; Q4_0 gives its unpaired number to the larger side. */
static void consider_around_zero(const Weights *w, Grid *best) {
    const float half = (w->most + 1) / 2;
    const vec largest = vmax(-w->low, w->high);
    if (half == 128) {
        const vec step = round_float16(largest / (half - 1));
        consider(w, best, step, -half * step);
    } else {
        const vec step = round_float16(largest / half);
        consider(w, best, step, choose(w->high > -w->low, splat(1 - half), splat(-half)) * step);
    }
}

static Grid best_grid(const Weights *w) {
    Grid best = {splat(0), splat(0), splat(INFINITY)};
    const vec range = w->high - w->low;
    consider(w, &best, range / w->most, w->low);
    consider_around_zero(w, &best);
    if (max_lanes(best.error) == 0) return best;
    /* By how many numbers more than there are a grid would reach over the range: the last ones leave a
     * little of it out, and the first ones, wider, find weights that happen to be closer to their steps. */
    const float first = w->most > 15 ? -8.0f : -2.0f, last = 0.6f;
    for (int i = 0; i < STEPS; i++) {
        const float more = first + (last - first) / (STEPS - 1) * (float)i;
        const vec step = range / (w->most + more);
        for (int j = 0; j < LEASTS; j++)
            consider_fitted(w, &best, step, w->low + step * (more / 2 + (float)(2 * j - LEASTS + 1) / 8));
    }
    return best;
}

/* Lanes [lane, lane + VEC) of one panel's block. */
static Weights read_weights(const float *weight, int outputs, int inputs, int output, int block, int format) {
    Weights w = {.low = splat(INFINITY), .high = splat(-INFINITY), .most = format == INT4 ? 15 : 255};
    for (int k = 0; k < BLOCK; k++) {
        float lanes[VEC] = {0};
        /* What the last block is filled up with widens no range. */
        const int input = block * BLOCK + k < inputs ? block * BLOCK + k : inputs - 1;
        for (int i = 0; i < VEC && output + i < outputs; i++) lanes[i] = weight[(int64_t)(output + i) * inputs + input];
        w.x[k] = load(lanes);
        w.low = choose(w.x[k] < w.low, w.x[k], w.low);
        w.high = vmax(w.high, w.x[k]);
    }
    return w;
}

static void quantize_lanes(const Weights *w, uint8_t *numbers, uint16_t *pair, int first, int format) {
    const Grid grid = best_grid(w);
    const vec inverse = inverse_of(grid.step);
    for (int k = 0; k < BLOCK; k++) {
        const vec number = number_of(w->x[k], grid.least, inverse, w->most);
        const int quad = k / 4;
        for (int i = 0; i < VEC; i++) {
            uint8_t *to = numbers + ((format == INT4 ? quad % 4 : quad) * LANES + first + i) * 4 + k % 4;
            const bool is_high_half = format == INT4 && quad >= 4;
            *to = (uint8_t)(is_high_half ? *to | (int)number[i] << 4 : (int)number[i]);
        }
    }
    for (int i = 0; i < VEC; i++) {
        pair[first + i] = float16_bits(grid.step[i]);
        pair[LANES + first + i] = float16_bits(grid.least[i]);
    }
}

/* Shared by the threads of a parallel region. ``packed`` has quantized_bytes(). */
static void quantize_weight(const float *weight, uint8_t *packed, int outputs, int inputs, int format) {
    const int blocks = count_blocks(inputs), panels = count_panels(outputs), bytes = block_bytes(format);
    uint16_t *steps = (uint16_t *)(packed + (int64_t)panels * blocks * bytes);
#pragma omp for schedule(static)
    for (int panel = 0; panel < panels; panel++)
        for (int b = 0; b < blocks; b++) {
            const int64_t at = (int64_t)panel * blocks + b;
            for (int first = 0; first < LANES; first += VEC) {
                const Weights w = read_weights(weight, outputs, inputs, panel * LANES + first, b, format);
                quantize_lanes(&w, packed + at * bytes, steps + at * 2 * LANES, first, format);
            }
        }
}

#endif
