/* The layers of a decoder in one call: norm, merged projection, attention, norm, gated projections. */
#ifndef HEADRACE_DECODER_H
#define HEADRACE_DECODER_H

#include "attention.h"
#include "linear.h"

typedef struct {
    const float *input_norm, *middle_norm;
    /* Norms of what attention and the gated part say, before it is added; NULL where there are none. */
    const float *attention_norm, *gated_norm;
    const float *query_norm, *key_norm; /* per head, or NULL */
    const void *merged, *output, *gate_up, *down;
    const float *merged_bias, *output_bias, *gate_up_bias, *down_bias;
    uint8_t *key_cache, *value_cache;
    float *key_scales, *value_scales;
    int32_t window, rotary; /* rotary: which of the decoder's tables */
    int32_t format;         /* of the four weights */
} Layer;

typedef struct {
    const Layer *layers;
    const float *final_norm;
    /* Activations, [rows] by what the name says. residual holds the embeddings at first. */
    float *residual, *normed, *merged, *attended, *delta, *gated;
    void *scratch; /* of Linear, for the widest inputs */
    const float *cosine[2], *sine[2];
    Attention attention; /* batch, sizes and rules; what differs by layer is filled in from the layer */
    int32_t num_layers, hidden, intermediate, gate; /* gate: a mode of Linear */
    float norm_eps;
} Decoder;

static void norm_rows(const Member *me, const float *x, const float *weight, float *out, int rows, int cols, float eps) {
    for (int r = me->rank; r < rows; r += me->size) rms_norm(x + (int64_t)r * cols, weight, out + (int64_t)r * cols, cols, eps);
    meet(me);
}

/* residual += W x, or residual += norm(W x). */
static void add_block(const Member *me, const Decoder *d, const Linear *l, const float *norm) {
    Linear block = *l;
    block.y = norm ? d->delta : d->residual;
    block.mode = norm ? STORE : ADD;
    linear(me, &block);
    if (!norm) return;
    for (int r = me->rank; r < block.rows; r += me->size) {
        float *delta = d->delta + (int64_t)r * d->hidden, *to = d->residual + (int64_t)r * d->hidden;
        rms_norm(delta, norm, delta, d->hidden, d->norm_eps);
        for (int i = 0; i < d->hidden; i++) to[i] += delta[i];
    }
    meet(me);
}

static Attention layer_attention(const Decoder *d, const Layer *l) {
    Attention a = d->attention;
    int64_t queries = (int64_t)a.num_heads * a.head_dim, keys = (int64_t)a.num_kv_heads * a.head_dim;
    a.query = d->merged;
    a.key = a.query + queries;
    a.value = a.key + keys;
    a.query_row = a.key_row = a.value_row = queries + 2 * keys;
    a.query_head = a.key_head = a.value_head = a.head_dim;
    a.out = d->attended;
    a.key_cache = l->key_cache;
    a.value_cache = l->value_cache;
    a.key_scales = l->key_scales;
    a.value_scales = l->value_scales;
    a.query_norm = l->query_norm;
    a.key_norm = l->key_norm;
    a.cosine = d->cosine[l->rotary];
    a.sine = d->sine[l->rotary];
    a.window = l->window;
    return a;
}

static void compute_layer(const Member *me, const Decoder *d, const Layer *l, const Tile *tiles, int count, float *memory) {
    const Attention a = layer_attention(d, l);
    const int rows = a.num_rows, heads = a.num_heads * a.head_dim;
    norm_rows(me, d->residual, l->input_norm, d->normed, rows, d->hidden, d->norm_eps);
    linear(me, &(Linear){d->normed, l->merged, l->merged_bias, d->merged, d->scratch, rows, (int32_t)a.query_row, d->hidden, STORE,
                     l->format});
    attend(me, &a, tiles, count, memory);
    add_block(me, d, &(Linear){d->attended, l->output, l->output_bias, NULL, d->scratch, rows, d->hidden, heads, ADD, l->format},
              l->attention_norm);
    norm_rows(me, d->residual, l->middle_norm, d->normed, rows, d->hidden, d->norm_eps);
    linear(me, &(Linear){d->normed, l->gate_up, l->gate_up_bias, d->gated, d->scratch, rows, 2 * d->intermediate, d->hidden, d->gate,
                     l->format});
    add_block(me, d, &(Linear){d->gated, l->down, l->down_bias, NULL, d->scratch, rows, d->hidden, d->intermediate, ADD, l->format},
              l->gated_norm);
}

static void decode(const Member *me, const Decoder *d, const Tile *tiles, int count, float *memory) {
    for (int i = 0; i < d->num_layers; i++) compute_layer(me, d, d->layers + i, tiles, count, memory);
    norm_rows(me, d->residual, d->final_norm, d->normed, d->attention.num_rows, d->hidden, d->norm_eps);
}

#endif
