/* What this machine can do at most: machine_limits.py compiles it, runs it with a number of threads, and reads
 * its lines "name value", in bytes or operations per second. A product and a sum are two operations. */
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define BUFFER ((size_t)1 << 30) /* far more than any cache */
#define ROUNDS (1 << 22)
#define SUMS 12 /* independent ones: more than an instruction's latency in instructions */
#define TRIES 8

#if defined(__AVX512F__)
typedef __m512 floats;
typedef __m512i ints;
#define HELD "v"
#else
typedef __m256 floats;
typedef __m256i ints;
#define HELD "x"
#endif

/* The compiler must take the value to be another one each time, and to be used. */
#define KEEP(value) __asm__ volatile("" : "+" HELD(value))

static inline floats float32(floats sum, floats a, floats b) { return sum + a * b; }

#if defined(__AVX512VNNI__)
static inline ints int16(ints sum, ints a, ints b) { return _mm512_dpwssd_epi32(sum, a, b); }
static inline ints int8(ints sum, ints a, ints b) { return _mm512_dpbusd_epi32(sum, a, b); }
#elif defined(__AVX512BW__)
static inline ints int16(ints sum, ints a, ints b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
static inline ints int8(ints sum, ints a, ints b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)));
}
#else
static inline ints int16(ints sum, ints a, ints b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
static inline ints int8(ints sum, ints a, ints b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
#endif

/* Sums of products in registers, each thread its own. */
#define MULTIPLY(name, type)                                                    \
    static void multiply_##name(void) {                                         \
        type sum[SUMS], a, b;                                                   \
        for (int i = 0; i < SUMS; i++) sum[i] = (type){0};                      \
        a = b = (type){0};                                                      \
        for (int round = 0; round < ROUNDS; round++) {                          \
            KEEP(a);                                                            \
            KEEP(b);                                                            \
            for (int i = 0; i < SUMS; i++) sum[i] = name(sum[i], a, b);         \
        }                                                                       \
        for (int i = 0; i < SUMS; i++) KEEP(sum[i]);                            \
    }
MULTIPLY(float32, floats)
MULTIPLY(int16, ints)
MULTIPLY(int8, ints)

static double seconds(void (*work)(void)) {
    double best = 1e9;
    for (int try = 0; try < TRIES; try++) {
        double begin = 0, end = 0;
#pragma omp parallel
        {
#pragma omp barrier
#pragma omp master
            begin = omp_get_wtime();
            work();
#pragma omp barrier
#pragma omp master
            end = omp_get_wtime();
        }
        if (end - begin < best) best = end - begin;
    }
    return best;
}

static const uint8_t *buffer;

/* Each thread reads its part from beginning to end, as the kernels read weights. */
static void read_memory(void) {
    const size_t part = BUFFER / (size_t)omp_get_num_threads() / 512 * 512;
    const uint8_t *from = buffer + part * (size_t)omp_get_thread_num();
    ints sum[8];
    for (int i = 0; i < 8; i++) sum[i] = (ints){0};
    for (size_t at = 0; at < part; at += 8 * sizeof(ints))
        for (int i = 0; i < 8; i++) sum[i] |= *(const ints *)(from + at + (size_t)i * sizeof(ints));
    for (int i = 0; i < 8; i++) KEEP(sum[i]);
}

int main(int count, char **words) {
    const int threads = count > 1 ? atoi(words[1]) : omp_get_max_threads();
    omp_set_num_threads(threads);
    uint8_t *memory = aligned_alloc(64, BUFFER);
    if (memory == NULL) return 1;
#pragma omp parallel for
    for (size_t page = 0; page < BUFFER; page += 4096)
        for (size_t i = 0; i < 4096; i += 8) *(uint64_t *)(memory + page + i) = page + i;
    buffer = memory;
    printf("read_bytes %.0f\n", (double)BUFFER / seconds(read_memory));
    const double products = 2.0 * ROUNDS * SUMS * threads * sizeof(ints);
    printf("float32 %.0f\n", products / 4 / seconds(multiply_float32));
    printf("int16 %.0f\n", products / 2 / seconds(multiply_int16));
    printf("int8 %.0f\n", products / seconds(multiply_int8));
    return 0;
}
