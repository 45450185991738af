// Threads that share panels out, one of which stands still: see test_shares.py.

#include <sched.h>

#include "../../inference/decoders/native/shares.hpp"

namespace {
bool is_over(double since, double patience) { return omp_get_wtime() - since > patience; }
}  // namespace

// Each panel's worker goes to `workers`, and how often it was worked on to `counts`. If panels are awaited, the first
// thread stands still in its first panel until the others have worked on so many, for at most `patience` seconds. They
// begin when it stands still.
extern "C" void work_off_panels(int64_t panels, Share *shares, int64_t threads, bool is_helped, int64_t awaited,
                                double patience, int64_t *workers, int64_t *counts) {
    int64_t done_by_others = 0;
    bool stands_still = awaited == 0;
    const double began = omp_get_wtime();
    const auto wait_until = [&](auto is_so) {
        while (!is_so() && !is_over(began, patience)) sched_yield();
    };
#pragma omp parallel num_threads(threads)
    {
        share_out(panels, shares);
#pragma omp barrier
        const int64_t thread = omp_get_thread_num();
        work_off(shares, is_helped, [&](int64_t panel) {
            workers[panel] = thread;
            __atomic_add_fetch(&counts[panel], 1, __ATOMIC_RELAXED);
            if (thread == 0) {
                __atomic_store_n(&stands_still, true, __ATOMIC_RELAXED);
                wait_until([&] { return __atomic_load_n(&done_by_others, __ATOMIC_RELAXED) >= awaited; });
            } else {
                wait_until([&] { return __atomic_load_n(&stands_still, __ATOMIC_RELAXED); });
                __atomic_add_fetch(&done_by_others, 1, __ATOMIC_RELAXED);
            }
        });
    }
}
