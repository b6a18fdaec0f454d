/* One register of floats at a time, in the compiler's own vector types. */
#ifndef HEADRACE_SIMD_H
#define HEADRACE_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* Packed data comes in units of sixteen floats whatever the registers' width; VEC floats fit in one. */
#define LANES 16
#if defined(__AVX512F__)
#define VEC 16
#elif defined(__AVX2__)
#define VEC 8
#else
#define VEC 4
#endif
#define PARTS (LANES / VEC)

typedef float vec __attribute__((vector_size(4 * VEC)));
typedef int32_t ivec __attribute__((vector_size(4 * VEC)));
typedef uint16_t hvec __attribute__((vector_size(2 * VEC)));

/* Every source is compiled once per instruction set, and its public names end in that set's name. */
#define JOIN2(name, isa) hr_##name##_##isa
#define JOIN1(name, isa) JOIN2(name, isa)
#define PUBLIC(name) JOIN1(name, HR_ISA)

/* For what is called with constants. */
#define UNROLLED static inline __attribute__((always_inline)) void

static inline vec load(const float *from) {
    vec value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void store(float *to, vec value) { memcpy(to, &value, sizeof value); }

static inline vec splat(float value) { return (vec){0} + value; }

static inline vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

static inline vec vmax(vec a, vec b) { return choose(a > b, a, b); }

static inline ivec iload(const void *from) {
    ivec value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* Sixteen bits each, made thirty-two. */
static inline ivec widen(const uint16_t *from) {
#if VEC == 16
    return (ivec)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
#elif VEC == 8
    return (ivec)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
#else
    hvec bits;
    memcpy(&bits, from, sizeof bits);
    return __builtin_convertvector(bits, ivec);
#endif
}

static inline vec load_bfloat16(const uint16_t *from) { return (vec)(widen(from) << 16); }

/* Finite numbers only. */
static inline vec load_float16(const uint16_t *from) {
#if VEC == 16
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif VEC == 8
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
#else
    ivec wide = widen(from);
    /* The exponent's bias is wrong by 112 until the product, subnormal numbers included. */
    vec magnitude = (vec)((wide & 0x7fff) << 13) * 0x1p112f;
    return (vec)((ivec)magnitude | (wide & 0x8000) << 16);
#endif
}

/* Halving, in one fixed order. */
static inline float sum_lanes(vec value) {
    float lane[VEC];
    memcpy(lane, &value, sizeof lane);
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

static inline float max_lanes(vec value) {
    float lane[VEC];
    memcpy(lane, &value, sizeof lane);
    for (int half = VEC / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
}

/* exp to within 2 ulp; 0 below -87 (exactly, so that a masked score weighs nothing), finite up to 88. */
static inline vec vexp(vec x) {
    const vec low = splat(-87.0f), high = splat(88.0f);
    ivec alive = x > low;
    x = choose(alive, x, low);
    x = choose(x < high, x, high);
    /* Adding 1.5 * 2^23 leaves the nearest integer in the low bits. */
    const vec magic = splat(12582912.0f);
    vec shifted = x * 1.44269504f + magic;
    ivec exponent = (ivec)shifted - (ivec)magic;
    vec n = shifted - magic;
    vec r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vec scaled = (vec)((ivec)p + (exponent << 23));
    return (vec)((ivec)scaled & alive);
}

static inline vec vtanh(vec x) { return 1.0f - 2.0f / (vexp(x + x) + 1.0f); }

/* out = x / sqrt(mean of squares + eps) * weight; ``out`` may be ``x``. */
static inline void rms_norm(const float *x, const float *weight, float *out, int count, float eps) {
    vec squares = {0};
    int i = 0;
    for (; i + VEC <= count; i += VEC) squares += load(x + i) * load(x + i);
    float total = sum_lanes(squares);
    for (; i < count; i++) total += x[i] * x[i];
    float factor = 1.0f / sqrtf(total / (float)count + eps);
    for (i = 0; i + VEC <= count; i += VEC) store(out + i, load(weight + i) * (load(x + i) * factor));
    for (; i < count; i++) out[i] = weight[i] * (x[i] * factor);
}

#endif
