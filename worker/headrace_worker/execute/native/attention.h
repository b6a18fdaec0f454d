/* Attention over a paged K/V cache, computed in float32 whatever the cache is kept in.
 *
 * Work is cut into tiles: some consecutive rows of one sequence, and the query heads that share one
 * K/V head. A tile walks over the keys sixty-four at a time with an online softmax. What is
 * computed for a row, and in which order, depends on that row's own position only, never on its
 * tile: the same bits come out however a prompt is cut into chunks and whatever else is in the batch.
 *
 * Cache layout: keys [block][kv_head][dim][place], values [block][kv_head][place][dim], so that both
 * products of attention are the same small matrix product, sixteen columns wide. Scales of both, where
 * numbers have some: [block][kv_head][place].
 */
#ifndef HEADRACE_ATTENTION_H
#define HEADRACE_ATTENTION_H

#include <stddef.h>
#include <stdlib.h>

#include "cache.h"
#include "team.h"

#define KEYS 64                  /* keys per turn */
#define UNITS (KEYS / LANES)     /* a turn is made of units of sixteen keys, each within one block */
#define TILE_ROWS 48             /* (row, query head) pairs per tile, where one group of heads is not more */
/* Rows whose sums stay in registers. */
#if VEC == 16
#define GROUP 8
#elif VEC == 8
#define GROUP 6
#else
#define GROUP 2
#endif

typedef struct {
    float *query, *key, *value; /* [rows][heads][dim], strides below, in floats */
    int64_t query_row, query_head, key_row, key_head, value_row, value_head;
    uint8_t *key_cache, *value_cache;
    float *key_scales, *value_scales; /* NULL where the cache is KEPT_PLAIN */
    float *out;             /* [rows][num_heads][value_dim] */
    const float *cosine, *sine; /* [rows][rotary_dim], the first half of each counts; NULL: queries and keys are rotated already */
    const float *query_norm, *key_norm; /* [head_dim], or NULL */
    const float *sinks;     /* [num_heads], or NULL */
    const int32_t *query_starts, *contexts, *block_tables;
    const int64_t *slots;
    int64_t table_row;      /* int32 per row of block_tables */
    int32_t num_sequences, num_rows, num_heads, num_kv_heads, head_dim, value_dim, block_size, rotary_dim;
    int32_t window;         /* 0: none */
    int32_t kept;           /* a format of cache.h */
    int32_t threads;
    float scale, softcap, norm_eps; /* softcap 0: none */
} Attention;

typedef struct {
    float *query;   /* [rows][head_dim], scaled */
    float *weights; /* [rows][KEYS] */
    float *sums;    /* [rows][value_dim] */
    float *top, *total, *shrink; /* [rows] */
} Scratch;

typedef struct {
    int sequence, first_row, rows; /* rows of the batch */
    int position;                  /* of the first row in its sequence */
    int kv_head;
} Tile;

/* ---- rotary embedding, norms and the way into the cache ---- */

static void rotate(float *restrict x, const float *restrict cosine, const float *restrict sine, int dim) {
    int half = dim / 2;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

static void prepare_head(const Attention *a, float *x, const float *norm, int row) {
    if (norm) rms_norm(x, norm, x, a->head_dim, a->norm_eps);
    if (a->cosine) rotate(x, a->cosine + (int64_t)row * a->rotary_dim, a->sine + (int64_t)row * a->rotary_dim, a->rotary_dim);
}

/* Where the places of a block's K/V head begin, counted in places of the whole cache. */
static inline int64_t first_place(const Attention *a, int64_t block, int head) {
    return (block * a->num_kv_heads + head) * a->block_size;
}

static void store_head(const Attention *a, int64_t slot, int head, const float *key, const float *value) {
    const int64_t first = first_place(a, slot / a->block_size, head), place = slot % a->block_size, at = first + place;
    uint8_t *keys = a->key_cache + (first * a->head_dim + place) * kept_bytes(a->kept);
    uint8_t *values = a->value_cache + at * a->value_dim * kept_bytes(a->kept);
    if (a->kept == KEPT_PLAIN) {
        for (int d = 0; d < a->head_dim; d++) ((float *)keys)[(int64_t)d * a->block_size] = key[d];
        memcpy(values, value, sizeof(float) * a->value_dim);
    } else {
        keep(key, a->head_dim, a->kept, keys, a->block_size, a->key_scales + at);
        keep(value, a->value_dim, a->kept, values, 1, a->value_scales + at);
    }
}

static void prepare_row(const Attention *a, int row) {
    for (int h = 0; h < a->num_heads && (a->cosine || a->query_norm); h++)
        prepare_head(a, a->query + row * a->query_row + h * a->query_head, a->query_norm, row);
    for (int h = 0; h < a->num_kv_heads; h++) {
        float *key = a->key + row * a->key_row + h * a->key_head;
        prepare_head(a, key, a->key_norm, row);
        store_head(a, a->slots[row], h, key, a->value + row * a->value_row + h * a->value_head);
    }
}

/* ---- the two small matrix products ---- */

/* Called with constants for ``n``, at most GROUP, and for ``kept``, so that the sums are registers. */

/* to[r][0..16) = sum over k of rows[r][k] * columns[k][0..16), by the columns' scales where they have some. */
UNROLLED score_rows(const int n, const int kept, const float *rows, int depth, const uint8_t *columns, int stride,
                    const float *scales, float *to) {
    vec sum[GROUP][PARTS];
    for (int r = 0; r < n; r++)
        for (int i = 0; i < PARTS; i++) sum[r][i] = (vec){0};
    for (int k = 0; k < depth; k++) {
        vec column[PARTS];
        for (int i = 0; i < PARTS; i++)
            column[i] = load_kept(columns + ((int64_t)k * stride + i * VEC) * kept_bytes(kept), kept);
        for (int r = 0; r < n; r++)
            for (int i = 0; i < PARTS; i++) sum[r][i] += rows[(int64_t)r * depth + k] * column[i];
    }
    for (int r = 0; r < n; r++)
        for (int i = 0; i < PARTS; i++)
            store(to + r * KEYS + i * VEC, kept == KEPT_PLAIN ? sum[r][i] : sum[r][i] * load(scales + i * VEC));
}

/* sums[r][0..16) = sums[r][0..16) * shrink[r] + sum over places of weights[r][place] * values[place][0..16). */
UNROLLED weigh_rows(const int n, const int kept, const float *weights, const float *shrink, const uint8_t *const *values,
                    int units, int dim, int column, float *sums) {
    vec sum[GROUP][PARTS];
    for (int r = 0; r < n; r++)
        for (int i = 0; i < PARTS; i++) sum[r][i] = load(sums + (int64_t)r * dim + i * VEC) * shrink[r];
    for (int u = 0; u < units; u++)
        for (int k = 0; k < LANES; k++) {
            vec value[PARTS];
            for (int i = 0; i < PARTS; i++)
                value[i] = load_kept(values[u] + ((int64_t)k * dim + column + i * VEC) * kept_bytes(kept), kept);
            for (int r = 0; r < n; r++)
                for (int i = 0; i < PARTS; i++) sum[r][i] += weights[r * KEYS + u * LANES + k] * value[i];
        }
    for (int r = 0; r < n; r++) memcpy(sums + (int64_t)r * dim, sum[r], sizeof(float) * LANES);
}

#if GROUP == 8
#define EACH_SIZE(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#elif GROUP == 6
#define EACH_SIZE(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#else
#define EACH_SIZE(CASE) CASE(1) CASE(2)
#endif

#define FOR_EACH_FORMAT(kept, CASE)                                       \
    switch (kept) {                                                       \
        case KEPT_PLAIN: switch (n) { EACH_SIZE(CASE##_PLAIN) } break;    \
        case KEPT_INT8: switch (n) { EACH_SIZE(CASE##_INT8) } break;      \
        default: switch (n) { EACH_SIZE(CASE##_FP8) }                     \
    }

static void score(int n, int kept, const float *rows, int depth, const uint8_t *columns, int stride, const float *scales,
                  float *to) {
#define SCORE(size, format) case size: score_rows(size, format, rows, depth, columns, stride, scales, to); break;
#define SCORE_PLAIN(size) SCORE(size, KEPT_PLAIN)
#define SCORE_INT8(size) SCORE(size, KEPT_INT8)
#define SCORE_FP8(size) SCORE(size, KEPT_FP8)
    FOR_EACH_FORMAT(kept, SCORE)
}

static void weigh(int n, int kept, const float *weights, const float *shrink, const uint8_t *const *values, int units, int dim,
                  int column, float *sums) {
#define WEIGH(size, format) case size: weigh_rows(size, format, weights, shrink, values, units, dim, column, sums); break;
#define WEIGH_PLAIN(size) WEIGH(size, KEPT_PLAIN)
#define WEIGH_INT8(size) WEIGH(size, KEPT_INT8)
#define WEIGH_FP8(size) WEIGH(size, KEPT_FP8)
    FOR_EACH_FORMAT(kept, WEIGH)
}

/* ---- one tile ---- */

static void gather_queries(const Attention *a, const Tile *tile, const Scratch *s) {
    int heads = a->num_heads / a->num_kv_heads;
    for (int t = 0; t < tile->rows; t++)
        for (int g = 0; g < heads; g++) {
            const float *from = a->query + (tile->first_row + t) * a->query_row + (tile->kv_head * heads + g) * a->query_head;
            float *to = s->query + (int64_t)(t * heads + g) * a->head_dim;
            for (int d = 0; d < a->head_dim; d++) to[d] = from[d] * a->scale;
        }
}

static void start_softmax(const Attention *a, const Tile *tile, const Scratch *s, int pairs, int heads) {
    memset(s->sums, 0, sizeof(float) * pairs * a->value_dim);
    for (int r = 0; r < pairs; r++) {
        /* Finite, so that a turn of nothing but masked keys leaves everything as it was. */
        s->top[r] = a->sinks ? a->sinks[tile->kv_head * heads + r % heads] : -1e30f;
        s->total[r] = a->sinks ? 1.0f : 0.0f;
    }
}

/* Scores of one row -> weights; keys [first, first + KEYS), of which the row sees [from, to). */
static void soften(const Attention *a, const Scratch *s, int r, int first, int from, int to) {
    float *scores = s->weights + r * KEYS;
    vec best = splat(-INFINITY);
    ivec lane;
    for (int i = 0; i < VEC; i++) lane[i] = first + i;
    for (int i = 0; i < KEYS; i += VEC, lane += VEC) {
        vec x = load(scores + i);
        if (a->softcap > 0) x = a->softcap * vtanh(x / a->softcap);
        x = choose((lane >= from) & (lane < to), x, splat(-INFINITY));
        best = vmax(best, x);
        store(scores + i, x);
    }
    float top = max_lanes(best);
    top = top > s->top[r] ? top : s->top[r];
    vec total = {0};
    for (int i = 0; i < KEYS; i += VEC) {
        vec weight = vexp(load(scores + i) - top);
        store(scores + i, weight);
        total += weight;
    }
    s->shrink[r] = vexp(splat(s->top[r] - top))[0];
    s->total[r] = s->total[r] * s->shrink[r] + sum_lanes(total);
    s->top[r] = top;
}

/* One row's weights, by the scales of the values that they are for. */
static void scale_weights(float *weights, const float *const *scales, int units) {
    for (int u = 0; u < units; u++)
        for (int i = 0; i < LANES; i += VEC) {
            float *at = weights + u * LANES + i;
            store(at, load(at) * load(scales[u] + i));
        }
}

static void turn(const Attention *a, const Tile *tile, const Scratch *s, int first, int last) {
    const int heads = a->num_heads / a->num_kv_heads, pairs = tile->rows * heads, bytes = kept_bytes(a->kept);
    const int32_t *table = a->block_tables + tile->sequence * a->table_row;
    const uint8_t *values[UNITS];
    const float *value_scales[UNITS];
    int units = 0;
    for (int key = first; key < last && units < UNITS; key += LANES, units++) {
        const int64_t start = first_place(a, table[key / a->block_size], tile->kv_head), place = key % a->block_size;
        const uint8_t *keys = a->key_cache + (start * a->head_dim + place) * bytes;
        const float *key_scales = a->kept == KEPT_PLAIN ? NULL : a->key_scales + start + place;
        values[units] = a->value_cache + (start + place) * a->value_dim * bytes;
        value_scales[units] = a->kept == KEPT_PLAIN ? NULL : a->value_scales + start + place;
        for (int r = 0; r < pairs; r += GROUP)
            score(pairs - r < GROUP ? pairs - r : GROUP, a->kept, s->query + (int64_t)r * a->head_dim, a->head_dim, keys,
                  a->block_size, key_scales, s->weights + r * KEYS + units * LANES);
    }
    for (int r = 0; r < pairs; r++) {
        int position = tile->position + r / heads;
        int from = a->window > 0 && position - a->window + 1 > 0 ? position - a->window + 1 : 0;
        soften(a, s, r, first, from, position + 1);
        if (a->kept != KEPT_PLAIN) scale_weights(s->weights + r * KEYS, value_scales, units);
    }
    for (int r = 0; r < pairs; r += GROUP)
        for (int column = 0; column < a->value_dim; column += LANES)
            weigh(pairs - r < GROUP ? pairs - r : GROUP, a->kept, s->weights + r * KEYS, s->shrink + r, values, units,
                  a->value_dim, column, s->sums + (int64_t)r * a->value_dim + column);
}

static void compute_tile(const Attention *a, const Tile *tile, const Scratch *s) {
    int heads = a->num_heads / a->num_kv_heads, pairs = tile->rows * heads;
    int last = tile->position + tile->rows; /* keys [0, last) are in the cache and seen by the last row */
    int first = a->window > 0 && tile->position - a->window + 1 > 0 ? tile->position - a->window + 1 : 0;
    gather_queries(a, tile, s);
    start_softmax(a, tile, s, pairs, heads);
    for (int key = first / KEYS * KEYS; key < last; key += KEYS) turn(a, tile, s, key, last);
    for (int r = 0; r < pairs; r++) {
        int row = tile->first_row + r / heads, head = tile->kv_head * heads + r % heads;
        float *to = a->out + ((int64_t)row * a->num_heads + head) * a->value_dim;
        float factor = 1.0f / s->total[r];
        for (int d = 0; d < a->value_dim; d++) to[d] = s->sums[(int64_t)r * a->value_dim + d] * factor;
    }
}

/* ---- all of them ---- */

static int64_t scratch_floats(const Attention *a) {
    int heads = a->num_heads / a->num_kv_heads;
    int64_t pairs = heads > TILE_ROWS ? heads : TILE_ROWS;
    return pairs * (a->head_dim + KEYS + a->value_dim + 3);
}

static Scratch cut_scratch(const Attention *a, float *memory) {
    int heads = a->num_heads / a->num_kv_heads;
    int64_t pairs = heads > TILE_ROWS ? heads : TILE_ROWS;
    Scratch s;
    s.query = memory;
    s.weights = s.query + pairs * a->head_dim;
    s.sums = s.weights + pairs * KEYS;
    s.top = s.sums + pairs * a->value_dim;
    s.total = s.top + pairs;
    s.shrink = s.total + pairs;
    return s;
}

/* Tiles in the order in which they are handed out: long sequences are not kept for the end on purpose,
 * prompts come last in a batch and their late tiles are the longest. */
static int cut_tiles(const Attention *a, Tile *tiles) {
    int heads = a->num_heads / a->num_kv_heads, count = 0;
    int rows_per_tile = heads > TILE_ROWS ? 1 : TILE_ROWS / heads;
    for (int i = a->num_sequences - 1; i >= 0; i--) {
        int begin = a->query_starts[i], end = a->query_starts[i + 1];
        int chunks = (end - begin + rows_per_tile - 1) / rows_per_tile;
        for (int c = chunks - 1; c >= 0; c--) {
            int first = begin + c * rows_per_tile;
            int rows = end - first < rows_per_tile ? end - first : rows_per_tile;
            int position = a->contexts[i] - (end - first);
            for (int h = 0; h < a->num_kv_heads; h++, count++)
                if (tiles) tiles[count] = (Tile){i, first, rows, position, h};
        }
    }
    return count;
}

/* Done by a team, which meets at the end. ``tiles`` has the ``count`` tiles of the batch, ``memory`` is this
 * member's own. */
static void attend(const Member *me, const Attention *a, const Tile *tiles, int count, float *memory) {
    Scratch s = cut_scratch(a, memory);
    for (int row = me->rank; row < a->num_rows; row += me->size) prepare_row(a, row);
    meet(me);
    for (int i; (i = take(me)) < count;) compute_tile(a, &tiles[i], &s);
    meet(me);
}

#endif
