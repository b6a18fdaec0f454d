/* What Python calls. Each function opens one parallel region; everything inside shares its threads. */
#include "decoder.h"
#include "quantize.h"

#ifdef _OPENMP
#include <omp.h>
#define MEMBER(team) (Member){&(team), omp_get_thread_num(), omp_get_num_threads()}
#else
#define MEMBER(team) (Member){&(team), 0, 1}
#endif

typedef struct {
    Tile *tiles;
    float *memory;
    int64_t floats_each;
    int count;
} Workspace;

static int open_workspace(Workspace *w, const Attention *a) {
    w->count = cut_tiles(a, NULL);
    w->floats_each = (scratch_floats(a) + LANES - 1) / LANES * LANES;
    w->tiles = malloc(sizeof(Tile) * (size_t)(w->count > 0 ? w->count : 1));
    w->memory = aligned_alloc(64, sizeof(float) * (size_t)w->floats_each * (size_t)a->threads);
    if (w->tiles && w->memory) return cut_tiles(a, w->tiles), 0;
    free(w->tiles);
    free(w->memory);
    return -1;
}

static void close_workspace(Workspace *w) {
    free(w->tiles);
    free(w->memory);
}

/* For the caller to compare with its own idea of the structures: a library from older sources must not be called. */
int64_t PUBLIC(layout)(void) { return (int64_t)((sizeof(Decoder) * 1000 + sizeof(Layer)) * 1000 + sizeof(Linear)); }

/* Elements of ``size`` bytes, 4 or 2. */
void PUBLIC(pack)(const void *weight, void *packed, int outputs, int inputs, int size, int threads) {
#pragma omp parallel num_threads(threads)
    pack(weight, packed, outputs, inputs, size);
}

int64_t PUBLIC(quantized_bytes)(int outputs, int inputs, int format) { return quantized_bytes(outputs, inputs, format); }

void PUBLIC(quantize)(const float *weight, void *packed, int outputs, int inputs, int format, int threads) {
#pragma omp parallel num_threads(threads)
    quantize_weight(weight, packed, outputs, inputs, format);
}

void PUBLIC(unpack_rows)(const Linear *l, const int64_t *ids, float *out, int count, int threads) {
#pragma omp parallel num_threads(threads) if (count > 8)
    unpack_rows(l, ids, out, count);
}

int64_t PUBLIC(scratch_bytes)(int rows, int inputs) { return scratch_bytes(rows, inputs); }

void PUBLIC(linear)(const Linear *l, int threads) {
    Team team = {0};
#pragma omp parallel num_threads(threads)
    linear(&MEMBER(team), l);
}

/* This and the next return 0, or -1 when there is no memory for the scratch space. */
int PUBLIC(attend)(const Attention *a) {
    Workspace w;
    if (open_workspace(&w, a) != 0) return -1;
    Team team = {0};
#pragma omp parallel num_threads(a->threads)
    {
        const Member me = MEMBER(team);
        attend(&me, a, w.tiles, w.count, w.memory + w.floats_each * me.rank);
    }
    close_workspace(&w);
    return 0;
}

int PUBLIC(decode)(const Decoder *d) {
    Workspace w;
    if (open_workspace(&w, &d->attention) != 0) return -1;
    Team team = {0};
#pragma omp parallel num_threads(d->attention.threads)
    {
        const Member me = MEMBER(team);
        decode(&me, d, w.tiles, w.count, w.memory + w.floats_each * me.rank);
    }
    close_workspace(&w);
    return 0;
}
