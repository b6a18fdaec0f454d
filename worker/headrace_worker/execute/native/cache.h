/* How keys and values are kept in the cache.
 *
 *   KEPT_PLAIN: float32.
 *   KEPT_INT8, KEPT_FP8: one byte a number, an integer or e4m3, and for each token and head one float32
 *     that its numbers are multiplied with. What is kept of a token depends on that token alone.
 */
#ifndef HEADRACE_CACHE_H
#define HEADRACE_CACHE_H

#include "simd.h"

enum { KEPT_PLAIN = 0, KEPT_INT8 = 1, KEPT_FP8 = 2 };

#define MOST_INT8 127.0f
#define MOST_FP8 448.0f
#define LEAST_HEAD 1e-30f /* as if a head had a number of this size at least: no scale is 0 */

static inline int kept_bytes(int format) { return format == KEPT_PLAIN ? 4 : 1; }

static float largest(const float *x, int count) {
    vec best = splat(LEAST_HEAD);
    int i = 0;
    for (; i + VEC <= count; i += VEC) best = vmax(best, vmax(load(x + i), -load(x + i)));
    float most = max_lanes(best);
    for (; i < count; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

/* The nearest integer, or the even one of two. */
static inline ivec nearest_int8(vec x) {
    const vec magic = splat(12582912.0f); /* 1.5 * 2^23 leaves it in the low bits */
    return (ivec)(x + magic) - (ivec)magic;
}

/* The nearest e4m3 in the same sense, for up to MOST_FP8. */
static inline ivec nearest_fp8(vec x) {
    const ivec bits = (ivec)x & 0x7fffffff, sign = ((ivec)x >> 24) & 0x80;
    /* Below 2^-6 they are multiples of 2^-9: the low bits of a sum with 2^14. */
    const vec magic = splat(16384.0f);
    const ivec small = (ivec)((vec)bits + magic) - (ivec)magic;
    const ivec normal = ((bits + 0x7ffff + ((bits >> 20) & 1)) >> 20) - (120 << 3);
    const ivec is_small = (vec)bits < splat(0x1p-6f);
    return sign | (is_small & small) | (~is_small & normal);
}

/* Keep one token's head: numbers[i * step]. */
static void keep(const float *x, int count, int format, uint8_t *numbers, int64_t step, float *scale) {
    /* Divided, as torch does it, and not multiplied with the reciprocal: the same bytes come out. */
    const float unit = largest(x, count) / (format == KEPT_INT8 ? MOST_INT8 : MOST_FP8);
    /* load_kept gives e4m3 numbers by this factor too small. */
    *scale = format == KEPT_INT8 ? unit : unit * 256;
    for (int i = 0; i < count; i += VEC) {
        float some[VEC] = {0};
        int32_t bytes[VEC];
        const int left = count - i < VEC ? count - i : VEC;
        memcpy(some, x + i, sizeof(float) * (size_t)left);
        const ivec nearest = format == KEPT_INT8 ? nearest_int8(load(some) / unit) : nearest_fp8(load(some) / unit);
        memcpy(bytes, &nearest, sizeof bytes);
        for (int j = 0; j < left; j++) numbers[(i + j) * step] = (uint8_t)bytes[j];
    }
}

static inline vec load_int8(const uint8_t *from) {
#if VEC == 16
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif VEC == 8
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    typedef int8_t bytes __attribute__((vector_size(VEC)));
    bytes numbers;
    memcpy(&numbers, from, sizeof numbers);
    return __builtin_convertvector(numbers, vec);
#endif
}

/* Numbers / 256: their bits, moved, are float16, whose exponents are by 8 larger. */
static inline vec load_fp8(const uint8_t *from) {
    /* The sign goes to two places, of which the lower one is the exponent's highest bit. */
#if VEC == 16
    __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from)), 7);
    return (vec)_mm512_cvtph_ps(_mm256_and_si256(wide, _mm256_set1_epi16((short)0xbfff)));
#elif VEC == 8
    __m128i wide = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)from)), 7);
    return (vec)_mm256_cvtph_ps(_mm_and_si128(wide, _mm_set1_epi16((short)0xbfff)));
#else
    uint16_t halves[VEC];
    for (int i = 0; i < VEC; i++) halves[i] = (uint16_t)((from[i] & 0x7f) << 7 | (from[i] & 0x80) << 8);
    return load_float16(halves);
#endif
}

/* Without their scale. */
static inline vec load_kept(const uint8_t *from, int format) {
    return format == KEPT_PLAIN ? load((const float *)from) : format == KEPT_INT8 ? load_int8(from) : load_fp8(from);
}

#endif
