// The weights of a row's tokens, which their probabilities are proportional to, and the memory that they lie in.

#pragma once

#include "../decoders/native/numbers.hpp"

namespace {

constexpr int64_t BLOCK = 1024;      // numbers that are summed in float32 before they go into a sum in float64
constexpr float NOTABLE = 0x1p-15f;  // in a peaked distribution, few weights are as large as this
constexpr double FLAT = 64;          // the largest weight, 1, times this: weights that add up to more are not peaked
constexpr float NEGATIVE_INFINITY = -INFINITE;

// Vectors of numbers, in the order of their places.
struct Vectors {
    const float *numbers;
    const int32_t *places;
    int64_t count;
};

struct alignas(64) Line {  // a vector that does not lie across two lines of the processor's cache
    float numbers[LANES];
};

// What is needed of std::vector: gcc takes 0.1 s to read it, as long as <algorithm>.
template <class T>
struct Array {
    T *items = nullptr;
    int64_t size = 0;
    ~Array() { delete[] items; }
    void resize(int64_t wanted) {
        delete[] items;
        items = new T[wanted];
        size = wanted;
    }
    T &operator[](int64_t i) const { return items[i]; }
    void fill(T value) {
        for (int64_t i = 0; i < size; ++i) items[i] = value;
    }
};

// A thread's scratch, kept from step to step.
struct Scratch {
    Array<Line> weight_lines, candidate_lines, kept_lines;
    Array<int32_t> all_places, notable_places;
    float *weights, *candidates, *kept;  // as long as the vocabulary, in whole blocks, and a vector more
    Vectors all, notable;  // of the weights; those that are not among the latter have none of at least NOTABLE
    Array<double> masses;  // of each block of weights
    Array<int64_t> ties;   // how many weights of each block are kept though they equal the cut

    void resize(int64_t blocks) {
        if (masses.size == blocks) return;
        const int64_t vectors = blocks * BLOCK / LANES;
        weight_lines.resize(vectors + 1), candidate_lines.resize(vectors + 1), kept_lines.resize(vectors + 1);
        all_places.resize(vectors), notable_places.resize(vectors);
        for (int64_t i = 0; i < vectors; ++i) all_places[i] = i * LANES;
        weights = weight_lines[0].numbers, candidates = candidate_lines[0].numbers, kept = kept_lines[0].numbers;
        all = notable = first(weights, blocks * BLOCK);
        masses.resize(blocks);
        ties.resize(blocks);
    }
    Vectors first(const float *numbers, int64_t size) const { return {numbers, all_places.items, size / LANES}; }
    // All vectors with a weight of at least `least`.
    Vectors with(float least) const { return least < NOTABLE ? all : notable; }
};

// e^x for x from SMALLEST to 0, as numbers.hpp has it for any x.
constexpr float SMALLEST = -87;  // e^-87 is about 1.6e-38
inline Floats exponential_of_negative(Floats x) {
#if defined(__AVX512F__)
    const Floats n = (Floats)_mm512_roundscale_ps((__m512)(x * 1.44269504f), 0);
#else
    constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it leaves no place for a fraction
    const Floats n = (x * 1.44269504f + ROUNDER) - ROUNDER;
#endif
    const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = 0.0416666667f + r * (0.00833333f + r * 0.00138889f);
    p = 1 + r * (1 + r * (0.5f + r * (0.166666667f + r * p)));
#if defined(__AVX512F__)
    return (Floats)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return p * (Floats)((to_ints(n) + 127) << 23);
#endif
}

// e^((logit - largest) / temperature) for every token, so the largest weight is 1; 0 for those below min_p and for the
// very least. Fills the last block up with zeros, and the masses of the blocks.
void weigh(const float *logits, int64_t size, float largest, float temperature, float min_p, Scratch &scratch) {
    const float factor = 1 / temperature, least = max(min_p, 2e-38f);
    const auto weights_of = [=](Floats x) {
        const Floats scaled = (x - largest) * factor;
        const Floats weights = exponential_of_negative(select(scaled > SMALLEST, scaled, broadcast(SMALLEST)));
        return select(weights >= least, weights, Floats{});
    };
    float *weights = scratch.weights;
    for (int64_t begin = 0, block = 0; begin < size; begin += BLOCK, ++block) {
        const int64_t end = min(begin + BLOCK, size);
        Floats mass = {};
        int64_t i = begin;
        for (; i + LANES <= end; i += LANES) {
            const Floats numbers = weights_of(load(logits + i));
            store(weights + i, numbers);
            mass += numbers;
        }
        if (i < end) {
            float rest[LANES];
            for (int64_t lane = 0; lane < LANES; ++lane)
                rest[lane] = i + lane < end ? logits[i + lane] : NEGATIVE_INFINITY;
            const Floats numbers = weights_of(load(rest));
            store(weights + i, numbers);
            mass += numbers;
            i += LANES;
        }
        for (; i < begin + BLOCK; ++i) weights[i] = 0;
        scratch.masses[block] = sum(mass);
    }
}

// Note down which vectors have notable weights. If the distribution is flat, most have.
void find_notable(double mass, Scratch &scratch) {
    scratch.notable = scratch.all;
#if defined(__AVX512F__)
    if (mass > FLAT) return;
    int32_t *places = scratch.notable_places.items;
    int64_t count = 0;
    for (int64_t i = 0; i < scratch.all.count; ++i) {
        const __m512 weights = (__m512)load(scratch.weights + i * LANES);
        places[count] = i * LANES;
        count += _mm512_cmp_ps_mask(weights, (__m512)broadcast(NOTABLE), _CMP_GE_OQ) != 0;
    }
    scratch.notable = {scratch.weights, places, count};
#endif
}

double total(const Array<double> &masses) {
    double all = 0;
    for (int64_t block = 0; block < masses.size; ++block) all += masses[block];
    return all;
}

}  // namespace
