/* The sources that the library was built from, for who has them at hand to compare. */
const char *hr_sources(void) { return HR_SOURCES; }

/* Which of the instruction sets compiled in this machine has: the suffix of the functions to call. */
const char *hr_isa(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw"))
        return __builtin_cpu_supports("avx512vnni") ? "avx512vnni" : "avx512";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
    return "base";
}
