// Finds which weights top_k or top_p keep, without sorting them.

#pragma once

#include "weights.hpp"

namespace {

constexpr int64_t STEPS = 8;                        // thresholds that are tried in one pass
constexpr int64_t FEW = 64;                         // so many numbers are sorted
constexpr float ABOVE_ALL = 2;                      // no weight is more than 1
constexpr int64_t STRIDE = 16, MANY = 64 * STRIDE;  // of as many vectors as this, a guess looks at one in STRIDE

// Which weights are kept: all above `least`, and the first `ties` of those that equal it.
struct Cut {
    float least;
    int64_t ties;
};

// What the kept weights must reach: a number of weights, or a sum of them.
enum class By { COUNT, MASS };

// Copy those numbers that are at least `from` and below `to`. `into` may be where the first vector is.
int64_t copy_between(const Vectors &vectors, float from, float to, float *into) {
    int64_t count = 0;
    for (int64_t i = 0; i < vectors.count; ++i) {
        const float *numbers = vectors.numbers + vectors.places[i];
#if defined(__AVX512F__)
        const __m512 x = (__m512)load(numbers);
        const __mmask16 wanted = _mm512_cmp_ps_mask(x, (__m512)broadcast(from), _CMP_GE_OQ) &
                                 _mm512_cmp_ps_mask(x, (__m512)broadcast(to), _CMP_LT_OQ);
        if (!wanted) continue;
        store(into + count, (Floats)_mm512_maskz_compress_ps(wanted, x));
        count += __builtin_popcount(wanted);
#else
        for (int64_t j = 0; j < LANES; ++j) {
            const float x = numbers[j];
            into[count] = x;
            count += x >= from && x < to;
        }
#endif
    }
    return count;
}

// How many numbers are at least as large as each threshold, or what those add up to: block by block, so that vectors
// without any may be left out. Looks at every STRIDE-th vector.
template <By BY, int COUNT, int64_t STRIDE = 1>
void measure(const Vectors &vectors, const float *thresholds, double *amounts) {
    Floats limits[COUNT];
    for (int64_t step = 0; step < COUNT; ++step) limits[step] = broadcast(thresholds[step]), amounts[step] = 0;
    for (int64_t i = 0; i < vectors.count;) {
        const int64_t end = (vectors.places[i] / BLOCK + 1) * BLOCK;
        Floats amount[COUNT] = {};
        for (; i < vectors.count && vectors.places[i] < end; i += STRIDE) {
            const Floats x = load(vectors.numbers + vectors.places[i]), counted = BY == By::MASS ? x : broadcast(1);
            for (int64_t step = 0; step < COUNT; ++step)
                amount[step] = select(x >= limits[step], amount[step] + counted, amount[step]);
        }
        for (int64_t step = 0; step < COUNT; ++step) amounts[step] += sum(amount[step]);
    }
}

// The first threshold at which the goal is reached, or STEPS, and what is kept with the one before.
struct Reached {
    int64_t step;
    double before;
};

// `amount` is kept already. Two thresholds are tried if a sample says between which it lies, and all if it does not.
template <By BY>
Reached reach(const Vectors &vectors, const float *thresholds, double amount, double goal) {
    double amounts[STEPS];
    const auto first = [&](double times) {
        int64_t step = 0;
        while (step < STEPS && amount + times * amounts[step] < goal) ++step;
        return step;
    };
    if (vectors.count > MANY) {
        measure<BY, STEPS, STRIDE>(vectors, thresholds, amounts);
        const int64_t guess = min(max(first(STRIDE), int64_t(1)), STEPS - 1);
        measure<BY, 2>(vectors, thresholds + guess - 1, amounts);
        if (amount + amounts[0] < goal && amount + amounts[1] >= goal) return {guess, amount + amounts[0]};
    }
    measure<BY, STEPS>(vectors, thresholds, amounts);
    const int64_t step = first(1);
    return {step, step ? amount + amounts[step - 1] : amount};
}

// The largest comes first.
void sort(float *numbers, int64_t size) {
    for (int64_t i = 1; i < size; ++i) {
        const float moved = numbers[i];
        int64_t to = i;
        for (; to > 0 && numbers[to - 1] < moved; --to) numbers[to] = numbers[to - 1];
        numbers[to] = moved;
    }
}

// The cut among a few positive numbers, if `amount` is kept already. Of them, one is kept at least.
template <By BY>
Cut cut_sorted(float *numbers, int64_t size, double amount, double goal) {
    sort(numbers, size);
    int64_t kept = 0, ties = 0;
    do amount += BY == By::MASS ? numbers[kept] : 1;
    while (++kept < size && amount < goal);
    const float least = numbers[kept - 1];
    while (ties < kept && numbers[kept - 1 - ties] == least) ++ties;
    return {least, ties};
}

struct Range {
    float least, most;
};

// Of at least LANES numbers.
Range range_of(const float *numbers, int64_t size) {
    Floats least = load(numbers), most = least;
    for (int64_t i = 0; i < size; i += LANES) {
        const Floats x = load(numbers + min(i, size - LANES));  // the last ones overlap
        least = select(x < least, x, least);
        most = select(x > most, x, most);
    }
    Range range = {least[0], most[0]};
    for (int64_t lane = 1; lane < LANES; ++lane) range = {min(range.least, least[lane]), max(range.most, most[lane])};
    return range;
}

// Thresholds from `most` down to `least`, less and less apart: evenly by their bits. The first is more than `least`.
void spread(float least, float most, float *thresholds) {
    int32_t lower, upper;
    memcpy(&lower, &least, sizeof lower);
    memcpy(&upper, &most, sizeof upper);
    for (int64_t step = 0; step < STEPS; ++step) {
        const int32_t bits = upper - int32_t((upper - lower) * (step + 1) / (STEPS + 1));
        memcpy(thresholds + step, &bits, sizeof bits);
    }
}

// The smallest number of largest weights that reaches the goal. Thresholds that lie ever closer together are tried, and
// the weights between the last that does not keep enough and the first that does are looked at again. `all` are the
// weights, from 0 to 1, and not all 0; those of at least NOTABLE are in `notable`.
template <By BY>
Cut find_cut(Vectors all, Vectors notable, double goal, Scratch &scratch) {
    float *candidates = scratch.candidates;
    double amount = 0;  // of what is kept whatever the next pass says
    float from = __FLT_MIN__, to = ABOVE_ALL;
    float thresholds[STEPS] = {0x1p-1f, 0x1p-2f, 0x1p-3f, 0x1p-4f, 0x1p-6f, 0x1p-8f, 0x1p-11f, NOTABLE};
    while (true) {
        const auto [step, kept] = reach<BY>(notable, thresholds, amount, goal);
        const float lower = step < STEPS ? thresholds[step] : from, upper = step ? thresholds[step - 1] : to;
        const int64_t found = copy_between(step < STEPS ? notable : all, lower, upper, candidates);
        amount = kept;
        if (found == 0) return {upper, INT64_MAX};  // short by rounding alone: keep all above
        if (found <= FEW) return cut_sorted<BY>(candidates, found, amount, goal);
        const auto [least, most] = range_of(candidates, found);
        if (least == most) {  // equal weights: as many as are missing
            const double missing = (goal - amount) / (BY == By::MASS ? least : 1);
            return {least, int64_t(min(max(__builtin_ceil(missing), 1.0), double(found)))};
        }
        from = least, to = __builtin_nextafterf(most, ABOVE_ALL);
        spread(least, most, thresholds);
        const int64_t size = (found + LANES - 1) / LANES * LANES;
        for (int64_t i = found; i < size; ++i) candidates[i] = 0;
        all = notable = scratch.first(candidates, size);
    }
}

}  // namespace
