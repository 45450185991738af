// How threads share out the panels of a product.
//
// Each has a share, which it works off from front to back, since memory is fastest that way. With many rows, a thread
// that is done takes half of what another one has left: the event loop and other programs need a processor now and
// then, and the thread that was there stands still meanwhile.

#pragma once

#include <omp.h>

#include <cstdint>

namespace {

// A thread's panels, from `first` to `last` - 1. They are one number, so that both change at once. It has a cache line
// to itself. What threads write of the product is seen by the others after the barrier that ends it, not through this.
struct alignas(64) Share {
    uint64_t panels;

    static uint64_t range(uint64_t first, uint64_t last) { return last << 32 | first; }
    static uint64_t first(uint64_t panels) { return panels & 0xffffffff; }
    static uint64_t last(uint64_t panels) { return panels >> 32; }

    uint64_t now() const { return __atomic_load_n(&panels, __ATOMIC_RELAXED); }
    void set(uint64_t range) { __atomic_store_n(&panels, range, __ATOMIC_RELAXED); }
    // Set it if it is still `expected`, which otherwise becomes what it is.
    bool replace(uint64_t &expected, uint64_t range) {
        return __atomic_compare_exchange_n(&panels, &expected, range, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }

    // Take one of so many parts from the front, rounded up: a range, which is 0 if nothing was left.
    uint64_t take(uint64_t parts) {
        uint64_t panels = now();
        while (first(panels) < last(panels)) {
            const uint64_t end = first(panels) + (last(panels) - first(panels) + parts - 1) / parts;
            if (replace(panels, range(end, last(panels)))) return range(first(panels), end);
        }
        return 0;
    }

    // Take the second half of another share, rounded up, into this one, which is empty. Return whether there was any.
    bool take_half_of(Share &other) {
        uint64_t panels = other.now();
        while (first(panels) < last(panels)) {
            const uint64_t middle = (first(panels) + last(panels)) / 2;
            if (!other.replace(panels, range(first(panels), middle))) continue;
            set(range(middle, last(panels)));
            return true;
        }
        return false;
    }
};

// Give the calling thread its share. If threads help one another, a barrier comes before `work_off`.
void share_out(int64_t panels, Share *shares) {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    shares[thread].set(Share::range(panels * thread / threads, panels * (thread + 1) / threads));
}

// Call `work(panel)` until there are no panels left for this thread. Each taking waits for all that is being read, so
// what no other thread can take is a quarter at a time, not a panel.
template <class Work>
void work_off(Share *shares, bool is_helped, Work work) {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads(), others = is_helped ? threads : 1;
    Share &own = shares[thread];
    for (int64_t i = 0; i < others;) {  // the first of the others is itself
        while (const uint64_t range = own.take(is_helped ? 4 : 1))
            for (uint64_t panel = Share::first(range); panel < Share::last(range); ++panel) work(int64_t(panel));
        i = own.take_half_of(shares[(thread + i) % threads]) ? 0 : i + 1;
    }
}

}  // namespace
