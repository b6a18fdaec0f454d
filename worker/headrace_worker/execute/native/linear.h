/* y = x W^T + bias, float32, with the weight packed into panels of sixteen outputs.
 *
 * Each output is one sum over its inputs in their order, whatever the number of rows, so that a
 * row's result has the same bits alone and in a batch.
 */
#ifndef HEADRACE_LINEAR_H
#define HEADRACE_LINEAR_H

#include <stddef.h>

#include "simd.h"

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

/* Rows per pass over the weight: as many as stay in a core's cache beside one pair of panels. */
#define PASS_ROWS 192

enum { STORE = 0, ADD = 1, GATE_SILU = 2, GATE_GELU_TANH = 3 };

typedef struct {
    const float *x, *packed, *bias; /* bias: one per output, or NULL */
    float *y;
    int32_t rows, outputs, inputs;
    /* STORE: y = result. ADD: y += result. GATE_*: the first half of the outputs gates the second,
     * y [rows][outputs / 2] = activation(first) * second, where outputs is a multiple of 32. */
    int32_t mode;
} Linear;

/* packed[panel][k][16] = weight[panel * 16 + lane][k]; lanes behind the last output are 0. */
static void pack(const float *weight, float *packed, int outputs, int inputs) {
    int panels = (outputs + LANES - 1) / LANES;
#pragma omp for schedule(static)
    for (int p = 0; p < panels; p++)
        for (int k = 0; k < inputs; k++)
            for (int lane = 0; lane < LANES; lane++) {
                int output = p * LANES + lane;
                packed[((int64_t)p * inputs + k) * LANES + lane] = output < outputs ? weight[(int64_t)output * inputs + k] : 0;
            }
}

/* The other way: out[i] = weight[ids[i]], for ids that are known to be in range. */
static void unpack_rows(const float *packed, const int64_t *ids, float *out, int count, int inputs) {
#pragma omp for schedule(static)
    for (int i = 0; i < count; i++) {
        const float *from = packed + ids[i] / LANES * inputs * LANES + ids[i] % LANES;
        for (int k = 0; k < inputs; k++) out[(int64_t)i * inputs + k] = from[(int64_t)k * LANES];
    }
}

/* to[panel][row][16], for ``n`` rows and ``panels`` panels at once. */
#define LINEAR_BODY(n, panels)                                                                           \
    vec sum[n][panels][PARTS];                                                                           \
    for (int r = 0; r < n; r++)                                                                          \
        for (int p = 0; p < panels; p++)                                                                 \
            for (int i = 0; i < PARTS; i++) sum[r][p][i] = (vec){0};                                     \
    for (int k = 0; k < depth; k++) {                                                                    \
        vec w[panels][PARTS];                                                                            \
        for (int p = 0; p < panels; p++)                                                                 \
            for (int i = 0; i < PARTS; i++) w[p][i] = load(weight[p] + (int64_t)k * LANES + i * VEC);    \
        for (int r = 0; r < n; r++)                                                                      \
            for (int p = 0; p < panels; p++)                                                             \
                for (int i = 0; i < PARTS; i++) sum[r][p][i] += x[(int64_t)r * depth + k] * w[p][i];     \
    }                                                                                                    \
    for (int r = 0; r < n; r++)                                                                          \
        for (int p = 0; p < panels; p++) memcpy(to[p][r], sum[r][p], sizeof(float) * LANES);

static void multiply(int n, const float *x, int depth, const float *const *weight, float (*to)[ROWS][LANES]) {
#define CASE(size) case size: { LINEAR_BODY(size, PAIRED) break; }
    switch (n) {
        CASE(1) CASE(2)
#if ROWS >= 6
        CASE(3) CASE(4) CASE(5) CASE(6)
#endif
#if ROWS == 12
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
#undef CASE
}

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

/* Rows [row, row + n) of panels ``a`` and ``b``. */
static void linear_task(const Linear *l, int row, int n, int a, int b) {
    float results[2][ROWS][LANES];
    const int64_t panel = (int64_t)l->inputs * LANES;
    const float *weight[2] = {l->packed + a * panel, l->packed + b * panel};
    const float *x = l->x + (int64_t)row * l->inputs;
    for (int p = 0; p < 2; p += PAIRED) multiply(n, x, l->inputs, weight + p, results + p);
    for (int r = 0; r < n; r++) {
        if (l->mode >= GATE_SILU) {
            put_gated(l, row + r, a, results[0][r], results[1][r]);
        } else {
            put_panel(l, row + r, a, results[0][r]);
            if (b != a) put_panel(l, row + r, b, results[1][r]);
        }
    }
}

/* Shared by the threads of a parallel region; all of them meet at the end. */
static void linear(const Linear *l) {
    int panels = (l->outputs + LANES - 1) / LANES, pairs = (panels + 1) / 2;
    for (int pass = 0; pass < l->rows; pass += PASS_ROWS) {
        int end = pass + PASS_ROWS < l->rows ? pass + PASS_ROWS : l->rows;
        /* Handed out one by one: a thread whose core is busy with something else holds up nobody. */
#pragma omp for schedule(dynamic, 1) nowait
        for (int pair = 0; pair < pairs; pair++) {
            int a = l->mode >= GATE_SILU ? pair : 2 * pair;
            int b = l->mode >= GATE_SILU ? pair + pairs : 2 * pair + 1 < panels ? 2 * pair + 1 : a;
            for (int row = pass; row < end; row += ROWS) linear_task(l, row, end - row < ROWS ? end - row : ROWS, a, b);
        }
    }
#pragma omp barrier
}

#endif
