/* y = x W^T + bias, computed in float32 whatever the weight is kept in.
 *
 * Each output is one sum over its inputs in their order (over its blocks in their order, for the INT
 * formats, whose sums within a block are exact), whatever the number of rows: a row's result has the
 * same bits alone and in a batch.
 */
#ifndef HEADRACE_LINEAR_H
#define HEADRACE_LINEAR_H

#include "weights.h"

/* Rows whose sums stay in registers, times the panels that are multiplied together. */
#if VEC == 16
#define ROWS 12
#define PAIRED 2
#elif VEC == 8
#define ROWS 6
#define PAIRED 1
#else
#define ROWS 2
#define PAIRED 1
#endif

/* The same for the INT formats, which need registers for the pieces of the weight. */
#define INT_ROWS (VEC == 8 ? 4 : ROWS)

/* Rows per pass over the weight: as many as stay in a core's cache beside one pair of panels. */
#define PASS_ROWS 192

enum { STORE = 0, ADD = 1, GATE_SILU = 2, GATE_GELU_TANH = 3 };

typedef struct {
    const float *x;
    const void *packed;
    const float *bias; /* one per output, or NULL */
    float *y;
    void *scratch; /* scratch_bytes() of the rows; only the INT formats need it */
    int32_t rows, outputs, inputs;
    /* STORE: y = result. ADD: y += result. GATE_*: the first half of the outputs gates the second,
     * y [rows][outputs / 2] = activation(first) * second, where outputs is a multiple of 32. */
    int32_t mode;
    int32_t format; /* of the weight */
} Linear;

/* Out[i] = weight[ids[i]], for ids that are known to be in range. */
static void unpack_rows(const Linear *l, const int64_t *ids, float *out, int count) {
#pragma omp for schedule(static)
    for (int i = 0; i < count; i++) {
        float *to = out + (int64_t)i * l->inputs;
        if (l->format >= INT8)
            unpack_quantized(l->packed, l->format, l->outputs, l->inputs, ids[i], to);
        else
            unpack_plain(l->packed, l->format, l->inputs, ids[i], to);
    }
}

/* Sums of one task: up to ROWS rows of two panels. */
typedef float Results[2][ROWS][LANES];

/* Two panels, ``b`` = ``a`` where there is no second one. */
typedef struct {
    int a, b;
} Pair;

/* Where the numbers of a panel begin. */
static inline const uint8_t *panel_of(const Linear *l, int panel) {
    const int64_t bytes = l->format >= INT8 ? (int64_t)count_blocks(l->inputs) * block_bytes(l->format)
                                            : (int64_t)l->inputs * LANES * (l->format == FLOAT32 ? 4 : 2);
    return (const uint8_t *)l->packed + panel * bytes;
}

#define CACHE_LINE 64

/* Have a cache line brought near; it will be read a little later. */
static inline void fetch(const uint8_t *from) { __builtin_prefetch(from, 0, 2); }

/* Called with constants for ``n``, ``format`` and ``ahead``, so that the sums are registers. ``ahead``: fetch the pair
 * ``coming``, which is wanted next. Memory would be idle while rows are multiplied with a pair that is in the cache. */
UNROLLED multiply_plain(
    const int n, const int format, const int ahead, const Linear *l, int row, Pair pair, Pair coming, Results to) {
    const int depth = l->inputs, size = format == FLOAT32 ? 4 : 2;
    const float *x = l->x + (int64_t)row * depth;
    const uint8_t *weight[2] = {panel_of(l, pair.a), panel_of(l, pair.b)};
    const uint8_t *next[2] = {panel_of(l, coming.a), panel_of(l, coming.b)};
    for (int first = 0; first < 2; first += PAIRED) {
        vec sum[ROWS][PAIRED][PARTS];
        for (int r = 0; r < n; r++)
            for (int p = 0; p < PAIRED; p++)
                for (int i = 0; i < PARTS; i++) sum[r][p][i] = (vec){0};
        for (int k = 0; k < depth; k++) {
            if (ahead)
                for (int p = 0; p < PAIRED; p++) fetch(next[first + p] + (int64_t)k * LANES * size);
            vec w[PAIRED][PARTS];
            for (int p = 0; p < PAIRED; p++)
                for (int i = 0; i < PARTS; i++) {
                    const void *from = weight[first + p] + ((int64_t)k * LANES + i * VEC) * size;
                    w[p][i] = format == FLOAT32 ? load(from) : format == FLOAT16 ? load_float16(from) : load_bfloat16(from);
                }
            for (int r = 0; r < n; r++)
                for (int p = 0; p < PAIRED; p++)
                    for (int i = 0; i < PARTS; i++) sum[r][p][i] += x[(int64_t)r * depth + k] * w[p][i];
        }
        for (int r = 0; r < n; r++)
            for (int p = 0; p < PAIRED; p++) memcpy(to[first + p][r], sum[r][p], sizeof(float) * LANES);
    }
}

/* sum + products of two pairs of sixteen bits; exact, as there are never more than 32 products of 255 * MOST. */
static inline ivec dot_pair(ivec sum, ivec w, const quant *x) {
#if defined(__AVX2__)
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
#endif
#if defined(__AVX512VNNI__)
    return (ivec)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(pair));
#elif VEC == 16
    return sum + (ivec)_mm512_madd_epi16((__m512i)w, _mm512_set1_epi32(pair));
#elif VEC == 8
    return sum + (ivec)_mm256_madd_epi16((__m256i)w, _mm256_set1_epi32(pair));
#else
    return sum + (w & 0xffff) * x[0] + (w >> 16) * x[1];
#endif
}

UNROLLED multiply_quantized(
    const int n, const int format, const int ahead, const Linear *l, int row, Pair pair, Pair coming, Results to) {
    const int blocks = count_blocks(l->inputs), bytes = block_bytes(format);
    const QuantizedRows q = cut_quantized(l->scratch, l->rows, l->inputs);
    const uint8_t *packed = l->packed;
    const uint16_t *steps = (const uint16_t *)(packed + (int64_t)count_panels(l->outputs) * blocks * bytes);
    const quant *x = q.numbers + (int64_t)row * blocks * BLOCK;
    const BlockScale *scales = q.scales + (int64_t)row * blocks;
    for (int p = 0; p < 2; p++) {
        const int64_t panel = (int64_t)(p ? pair.b : pair.a) * blocks;
        const uint8_t *next = panel_of(l, p ? coming.b : coming.a);
        vec sum[ROWS][PARTS];
        for (int r = 0; r < n; r++)
            for (int i = 0; i < PARTS; i++) sum[r][i] = (vec){0};
        for (int block = 0; block < blocks; block++) {
            const uint8_t *numbers = packed + (panel + block) * bytes;
            if (ahead)
                for (int i = 0; i < bytes; i += CACHE_LINE) fetch(next + (int64_t)block * bytes + i);
            ivec exact[ROWS][PARTS];
            for (int r = 0; r < n; r++)
                for (int i = 0; i < PARTS; i++) exact[r][i] = (ivec){0};
            /* Unrolled, more would be kept at hand than there are registers. */
#pragma GCC unroll 1
            for (int quad = 0; quad < QUADS; quad++) {
                ivec even[PARTS], odd[PARTS];
                for (int i = 0; i < PARTS; i++) {
                    ivec w = iload(numbers + ((format == INT4 ? quad % 4 : quad) * LANES + i * VEC) * 4);
                    if (format == INT4) w = (w >> (quad & 4)) & 0x0f0f0f0f;
                    even[i] = w & 0x00ff00ff, odd[i] = (w >> 8) & 0x00ff00ff;
                }
                for (int r = 0; r < n; r++) {
                    const quant *four = x + ((int64_t)r * blocks + block) * BLOCK + quad * 4;
                    for (int i = 0; i < PARTS; i++) exact[r][i] = dot_pair(exact[r][i], even[i], four);
                    for (int i = 0; i < PARTS; i++) exact[r][i] = dot_pair(exact[r][i], odd[i], four + 2);
                }
            }
            const uint16_t *grid = steps + (panel + block) * 2 * LANES;
            for (int i = 0; i < PARTS; i++) {
                const vec step = load_float16(grid + i * VEC), least = load_float16(grid + LANES + i * VEC);
                for (int r = 0; r < n; r++) {
                    const BlockScale s = scales[(int64_t)r * blocks + block];
                    sum[r][i] += __builtin_convertvector(exact[r][i], vec) * (step * s.scale);
                    sum[r][i] += least * s.sum;
                }
            }
        }
        for (int r = 0; r < n; r++) memcpy(to[p][r], sum[r], sizeof(float) * LANES);
    }
}

#if ROWS == 12
#define EACH_COUNT(CASE) \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#elif ROWS == 6
#define EACH_COUNT(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#else
#define EACH_COUNT(CASE) CASE(1) CASE(2)
#endif

/* Only as many rows as there are registers for fetch the pair ``coming``: fewer take no longer than fetching does. */
#define MULTIPLY(name, body, most, format)                                                                 \
    static void name(int n, int ahead, const Linear *l, int row, Pair pair, Pair coming, Results to) {      \
        if (ahead && n == most)                                                                            \
            body(most, format, 1, l, row, pair, coming, to);                                               \
        else                                                                                               \
            switch (n) { EACH_COUNT(body##_##format) }                                                     \
    }
#define multiply_plain_FLOAT32(n) case n: multiply_plain(n, FLOAT32, 0, l, row, pair, coming, to); break;
#define multiply_plain_FLOAT16(n) case n: multiply_plain(n, FLOAT16, 0, l, row, pair, coming, to); break;
#define multiply_plain_BFLOAT16(n) case n: multiply_plain(n, BFLOAT16, 0, l, row, pair, coming, to); break;
#define multiply_quantized_INT8(n) case n: multiply_quantized(n, INT8, 0, l, row, pair, coming, to); break;
#define multiply_quantized_INT4(n) case n: multiply_quantized(n, INT4, 0, l, row, pair, coming, to); break;

MULTIPLY(multiply_float32, multiply_plain, ROWS, FLOAT32)
MULTIPLY(multiply_float16, multiply_plain, ROWS, FLOAT16)
MULTIPLY(multiply_bfloat16, multiply_plain, ROWS, BFLOAT16)
MULTIPLY(multiply_int8, multiply_quantized, INT_ROWS, INT8)
MULTIPLY(multiply_int4, multiply_quantized, INT_ROWS, INT4)

static inline vec silu(vec x) { return x / (1.0f + vexp(-x)); }

static inline vec gelu_tanh(vec x) { return 0.5f * x * (1.0f + vtanh(0.7978845608f * (x + 0.044715f * x * x * x))); }

static inline void put_panel(const Linear *l, int row, int panel, const float *values) {
    int first = panel * LANES, left = l->outputs - first, count = left < LANES ? left : LANES;
    float *to = l->y + (int64_t)row * l->outputs + first;
    for (int i = 0; i < count; i++) {
        float value = l->bias ? values[i] + l->bias[first + i] : values[i];
        to[i] = l->mode == ADD ? to[i] + value : value;
    }
}

static inline void put_gated(const Linear *l, int row, int panel, const float *gate, const float *up) {
    int half = l->outputs / 2, first = panel * LANES;
    float *to = l->y + (int64_t)row * half + first;
    for (int i = 0; i < LANES; i += VEC) {
        vec g = load(gate + i), u = load(up + i);
        if (l->bias) g += load(l->bias + first + i), u += load(l->bias + half + first + i);
        store(to + i, (l->mode == GATE_SILU ? silu(g) : gelu_tanh(g)) * u);
    }
}

/* Rows [row, row + n) of a pair. */
static void linear_task(const Linear *l, int row, int n, int ahead, Pair pair, Pair coming) {
    static void (*const multiply[])(int, int, const Linear *, int, Pair, Pair, Results) = {
        multiply_float32, multiply_float16, multiply_bfloat16, multiply_int8, multiply_int4};
    Results results;
    multiply[l->format](n, ahead, l, row, pair, coming, results);
    for (int r = 0; r < n; r++) {
        if (l->mode >= GATE_SILU) {
            put_gated(l, row + r, pair.a, results[0][r], results[1][r]);
        } else {
            put_panel(l, row + r, pair.a, results[0][r]);
            if (pair.b != pair.a) put_panel(l, row + r, pair.b, results[1][r]);
        }
    }
}

static inline Pair pair_at(const Linear *l, int number) {
    const int panels = count_panels(l->outputs);
    if (l->mode >= GATE_SILU) return (Pair){number, number + panels / 2};
    return (Pair){2 * number, 2 * number + 1 < panels ? 2 * number + 1 : 2 * number};
}

/* Done by a team, which meets at the end. */
static void linear(const Member *me, const Linear *l) {
    const int pairs = (count_panels(l->outputs) + 1) / 2, most = l->format >= INT8 ? INT_ROWS : ROWS;
    if (l->format >= INT8) {
        quantize_rows(me, l->x, l->scratch, l->rows, l->inputs);
        meet(me);
    }
    const int tasks = (l->rows + PASS_ROWS - 1) / PASS_ROWS * pairs;
    for (int task; (task = take(me)) < tasks;) {
        int first = task / pairs * PASS_ROWS;
        int end = first + PASS_ROWS < l->rows ? first + PASS_ROWS : l->rows;
        const Pair pair = pair_at(l, task % pairs);
        /* Most likely: the others take one each in between. */
        const int then = task + me->size;
        const Pair coming = pair_at(l, then % pairs);
        for (int row = first; row < end; row += most) {
            /* The first rows wait for their own pair. */
            const int ahead = row == first + most && then < tasks;
            linear_task(l, row, end - row < most ? end - row : most, ahead, pair, coming);
        }
    }
    meet(me);
}

#endif
