/* The threads of one parallel region: how they share work out, and wait for one another.
 *
 * A step has hundreds of places where all threads meet, microseconds apart. OpenMP's own barrier either
 * sleeps at once, which takes longer than the work between two such places, or goes on spinning, which is
 * ruinous where a core has something else to do. Here a thread spins for some ten microseconds, and then sleeps.
 */
#ifndef HEADRACE_TEAM_H
#define HEADRACE_TEAM_H

#include <stdatomic.h>
#include <stdint.h>
#if defined(__linux__)
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#define SPINS 500

/* All 0 at first. Each number has a cache line of its own. */
typedef struct {
    _Alignas(64) atomic_int next;    /* piece of work that nobody has taken */
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int meeting; /* how many meetings there were */
    _Alignas(64) atomic_int asleep;
} Team;

/* One thread of a team. */
typedef struct {
    Team *team;
    int rank, size;
} Member;

static inline void rest(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#if defined(__linux__)
static inline void sleep_until_woken(atomic_int *word, int value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static inline void wake_all(atomic_int *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }
#else
static inline void sleep_until_woken(atomic_int *word, int value) { (void)word, (void)value, sched_yield(); }

static inline void wake_all(atomic_int *word) { (void)word; }
#endif

/* Wait until all members are here; what they wrote before is seen by all of them afterwards. */
static void meet(const Member *me) {
    Team *team = me->team;
    /* No meeting ends without us: the number cannot change before we have arrived. */
    const int meeting = atomic_load_explicit(&team->meeting, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) == me->size - 1) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->next, 0, memory_order_relaxed);
        /* Both sides write first and read then, in one order for all: either we see the sleeper, or it sees the change. */
        atomic_store(&team->meeting, (int)((unsigned)meeting + 1));
        if (atomic_load(&team->asleep) > 0) wake_all(&team->meeting);
        return;
    }
    for (int spin = 0; spin < SPINS; spin++, rest())
        if (atomic_load_explicit(&team->meeting, memory_order_acquire) != meeting) return;
    atomic_fetch_add(&team->asleep, 1);
    while (atomic_load(&team->meeting) == meeting) sleep_until_woken(&team->meeting, meeting);
    atomic_fetch_sub(&team->asleep, 1);
}

/* The next piece of work: 0, 1, ... since the last meeting, each for one member alone. A thread whose core is busy
 * with something else takes fewer, and holds up nobody. */
static inline int take(const Member *me) { return atomic_fetch_add_explicit(&me->team->next, 1, memory_order_relaxed); }

#endif
