/* How the weights of linear layers are kept, and what is done once to the rows that they are multiplied with.
 *
 * A weight [outputs][inputs] is cut into panels of sixteen outputs; lanes behind the last output are 0.
 *   FLOAT32, FLOAT16, BFLOAT16: [panel][input][16]
 *   INT8, INT4: inputs come in blocks of thirty-two, the last one filled up with 0, and each output
 *     has a step and a least weight of its own in each block; weight = step * number + least. All
 *     numbers first, [panel][block][quad][16][4] with a quad of four neighbouring inputs, then
 *     float16 [panel][block][2][16], steps and leasts. In INT4, quads j and j + 4 share their bytes,
 *     low and high half.
 */
#ifndef HEADRACE_WEIGHTS_H
#define HEADRACE_WEIGHTS_H

#include <stddef.h>

#include "simd.h"
#include "team.h"

enum { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 2, INT8 = 3, INT4 = 4 };

#define BLOCK 32
#define QUADS (BLOCK / 4)

static inline int count_blocks(int inputs) { return (inputs + BLOCK - 1) / BLOCK; }
static inline int count_panels(int outputs) { return (outputs + LANES - 1) / LANES; }
/* Bytes of the numbers of one panel's block. */
static inline int block_bytes(int format) { return format == INT4 ? BLOCK * LANES / 2 : BLOCK * LANES; }

static inline int64_t quantized_bytes(int outputs, int inputs, int format) {
    return (int64_t)count_panels(outputs) * count_blocks(inputs) * (block_bytes(format) + 4 * LANES);
}

/* packed[panel][k][16] = weight[panel * 16 + lane][k], for elements of four and of two bytes. */
#define PACK_BODY(type)                                                                                  \
    for (int k = 0; k < inputs; k++)                                                                     \
        for (int lane = 0; lane < LANES; lane++) {                                                       \
            int output = p * LANES + lane;                                                               \
            ((type *)packed)[((int64_t)p * inputs + k) * LANES + lane] =                                 \
                output < outputs ? ((const type *)weight)[(int64_t)output * inputs + k] : 0;             \
        }

static void pack(const void *weight, void *packed, int outputs, int inputs, int size) {
#pragma omp for schedule(static)
    for (int p = 0; p < count_panels(outputs); p++) {
        if (size == 4) {
            PACK_BODY(uint32_t)
        } else {
            PACK_BODY(uint16_t)
        }
    }
}

/* ---- rows of activations, quantized by blocks for the INT formats ---- */

/* Sixteen bits: activations have outliers, and with eight bits they cost far more accuracy than the weights do.
 * Each quad is laid out as inputs 0, 2, 1, 3, for the instruction that multiplies it. */
typedef int16_t quant;
#define MOST 32767.0f

typedef struct {
    float scale;
    float sum; /* of the numbers, scaled */
} BlockScale;

typedef struct {
    const quant *numbers;      /* [rows][blocks][32] */
    const BlockScale *scales;  /* [rows][blocks] */
} QuantizedRows;

static inline int64_t scratch_bytes(int rows, int inputs) {
    return (int64_t)rows * count_blocks(inputs) * (int64_t)(BLOCK * sizeof(quant) + sizeof(BlockScale));
}

static inline QuantizedRows cut_quantized(void *scratch, int rows, int inputs) {
    const quant *numbers = scratch;
    return (QuantizedRows){numbers, (const BlockScale *)(numbers + (int64_t)rows * count_blocks(inputs) * BLOCK)};
}

static void quantize_block(const float *x, quant *numbers, BlockScale *to) {
    vec best = {0};
    for (int i = 0; i < BLOCK; i += VEC) best = vmax(best, vmax(load(x + i), -load(x + i)));
    float most = max_lanes(best), factor = most > 0 ? MOST / most : 0;
    /* Adding 1.5 * 2^23 leaves the nearest integer in the low bits. */
    const vec magic = splat(12582912.0f);
    int32_t wide[BLOCK];
    ivec sums = {0};
    for (int i = 0; i < BLOCK; i += VEC) {
        ivec nearest = (ivec)(load(x + i) * factor + magic) - (ivec)magic;
        sums += nearest;
        memcpy(wide + i, &nearest, sizeof nearest);
    }
    int32_t sum = 0;
    for (int i = 0; i < VEC; i++) sum += sums[i];
    *to = (BlockScale){most / MOST, most / MOST * (float)sum};
    for (int i = 0; i < BLOCK; i += 4) {
        numbers[i] = (quant)wide[i], numbers[i + 1] = (quant)wide[i + 2];
        numbers[i + 2] = (quant)wide[i + 1], numbers[i + 3] = (quant)wide[i + 3];
    }
}

/* Done by a team, which does not meet at the end. */
static void quantize_rows(const Member *me, const float *x, void *scratch, int rows, int inputs) {
    const QuantizedRows q = cut_quantized(scratch, rows, inputs);
    const int blocks = count_blocks(inputs);
    for (int r = me->rank; r < rows; r += me->size)
        for (int b = 0; b < blocks; b++) {
            const float *from = x + (int64_t)r * inputs + b * BLOCK;
            int64_t at = (int64_t)r * blocks + b;
            float padded[BLOCK] = {0};
            if (inputs - b * BLOCK < BLOCK) from = memcpy(padded, from, sizeof(float) * (size_t)(inputs - b * BLOCK));
            quantize_block(from, (quant *)q.numbers + at * BLOCK, (BlockScale *)q.scales + at);
        }
}

/* ---- the way back ---- */

static void unpack_quantized(const uint8_t *packed, int format, int outputs, int inputs, int64_t id, float *to) {
    const int blocks = count_blocks(inputs), lane = (int)(id % LANES);
    const int64_t first = id / LANES * blocks;
    const uint16_t *steps = (const uint16_t *)(packed + (int64_t)count_panels(outputs) * blocks * block_bytes(format));
    for (int b = 0; b < blocks; b++) {
        const uint8_t *numbers = packed + (first + b) * block_bytes(format);
        float pair[2 * LANES];
        for (int i = 0; i < 2 * LANES; i += VEC) store(pair + i, load_float16(steps + (first + b) * 2 * LANES + i));
        for (int k = 0; k < BLOCK && b * BLOCK + k < inputs; k++) {
            int quad = k / 4, byte = numbers[((format == INT4 ? quad % 4 : quad) * LANES + lane) * 4 + k % 4];
            int number = format == INT8 ? byte : quad < 4 ? byte & 15 : byte >> 4;
            to[b * BLOCK + k] = pair[lane] * (float)number + pair[LANES + lane];
        }
    }
}

static void unpack_plain(const void *packed, int format, int inputs, int64_t id, float *to) {
    const int64_t first = id / LANES * inputs * LANES + id % LANES;
    for (int k = 0; k < inputs; k++) {
        int64_t at = first + (int64_t)k * LANES;
        if (format == FLOAT32) {
            to[k] = ((const float *)packed)[at];
        } else {
            uint16_t copies[VEC] = {((const uint16_t *)packed)[at]};
            to[k] = (format == FLOAT16 ? load_float16(copies) : load_bfloat16(copies))[0];
        }
    }
}

#endif
