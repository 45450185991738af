// Threads that share panels out, one of which stands still: see test_shares.py.

#include "../../inference/decoders/native/shares.hpp"

namespace {
bool is_over(double since, double patience) { return omp_get_wtime() - since > patience; }
}  // namespace

// Each panel's worker goes to `workers`, and how often it was worked on to `counts`. The first thread stands still in
// its first panel until the others have worked on so many, for at most `patience` seconds.
extern "C" void work_off_panels(int64_t panels, Share *shares, int64_t threads, bool is_helped, int64_t awaited,
                                double patience, int64_t *workers, int64_t *counts) {
    int64_t done_by_others = 0;
#pragma omp parallel num_threads(threads)
    {
        share_out(panels, shares);
#pragma omp barrier
        const int64_t thread = omp_get_thread_num();
        const double began = omp_get_wtime();
        work_off(shares, is_helped, [&](int64_t panel) {
            workers[panel] = thread;
            __atomic_add_fetch(&counts[panel], 1, __ATOMIC_RELAXED);
            if (thread != 0) __atomic_add_fetch(&done_by_others, 1, __ATOMIC_RELAXED);
            while (thread == 0 && __atomic_load_n(&done_by_others, __ATOMIC_RELAXED) < awaited)
                if (is_over(began, patience)) break;
        });
    }
}
