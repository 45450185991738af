// Products of codes of four bits with half the multiplications (Winograd, "A new algorithm for inner products", 1968).
//
// Of two codes c and d, and the inputs x and y that they are multiplied with:
//
//     c * x + d * y = (c + y + 128) * (d + x) - (c + 128) * d - (y + 128) * x
//
// The second product depends on weights alone, the third on a row alone. So the former is computed when codes are
// unpacked, the latter when inputs are rounded, and for each row and output one multiplication and two additions are
// left of two multiplications. That is faster where only two of four ports multiply, and all four add. Both factors
// must fit a byte, the first without a sign: codes are 0 to 15, so inputs may be -128 to 112 (see `largest_code`).
// Sums of integers are exact, so an output has the same bits as in quantized.hpp.
//
// Of each 32 inputs the first sixteen are an x, the others a y: their codes lie in the same bytes of a strip.

#pragma once

#include "quantized.hpp"

namespace {

typedef uint8_t CodeBytes __attribute__((vector_size(64), aligned(4), may_alias));

// Of 32 inputs and sixteen outputs.
struct CrossedBlock {
    Floats scale, minimum;
    Ints sum;                                      // of -(c + 128) * d
    Bits first[VECTORS / 2], second[VECTORS / 2];  // each c + 128, and each d
};

template <class F, int VECTOR = 0>
inline void cross_codes(const uint8_t *codes, CrossedBlock &to) {
    if constexpr (VECTOR < VECTORS / 2) {
        to.first[VECTOR] = codes_at<F, VECTOR>(codes) | 0x80808080u;
        to.second[VECTOR] = codes_at<F, VECTOR + VECTORS / 2>(codes);
        cross_codes<F, VECTOR + 1>(codes, to);
    }
}

template <class F>
void cross_strip(const uint8_t *strip, int64_t inputs, uint8_t *room) {
    CrossedBlock *to = reinterpret_cast<CrossedBlock *>(room);
    for (int64_t block = 0; block < inputs / F::SIZE; ++block, ++to) {
        const Scales<F> scales(strip + Strips<F>::scales_at(block));
        to->scale = scales.scale, to->minimum = scales.minimum;
        cross_codes<F>(strip + Strips<F>::codes_at(block), *to);
        Ints sum = {};
        for (int i = 0; i < VECTORS / 2; ++i) sum = add_products(sum, to->first[i], (Ints)to->second[i]);
        to->sum = -sum;
    }
}

// To each row's sums, a vector of each strip's pairs.
template <int ROWS, int VECTOR>
[[gnu::always_inline]] inline void add_crossed(Ints (&sums)[ROWS][2], const CrossedBlock *const (&blocks)[2],
                                               const int32_t *inputs) {
    CodeBytes first[2], second[2];
    for (int strip = 0; strip < 2; ++strip) {
        first[strip] = (CodeBytes)blocks[strip]->first[VECTOR];
        second[strip] = (CodeBytes)blocks[strip]->second[VECTOR];
    }
    for (int row = 0; row < ROWS; ++row) {
        const CodeBytes x = (CodeBytes)(Ints{} + inputs[VECTOR * ROWS + row]);
        const CodeBytes y = (CodeBytes)(Ints{} + inputs[(VECTOR + VECTORS / 2) * ROWS + row]);
        for (int strip = 0; strip < 2; ++strip)
            sums[row][strip] = add_products(sums[row][strip], (Bits)(first[strip] + y), (Ints)(second[strip] + x));
    }
}

// ROWS rows times two strips. `to` has PANEL floats for each row.
template <class F, int ROWS>
void multiply_crossed(const uint8_t *const (&strips)[2], const Tile &tile, int64_t inputs, float (*to)[PANEL],
                      const Behind &behind) {
    Floats outputs[ROWS][2] = {};
    const int32_t *x = tile.codes, *starts = F::OFFSET ? tile.crossed_offsets : tile.crossed_sums;
    const float *scales = tile.scales, *weighted_sums = tile.weighted_sums;
    for (int64_t block = 0; block < inputs / F::SIZE; ++block) {
        behind.ask_for(block);
        const CrossedBlock *blocks[2];
        for (int strip = 0; strip < 2; ++strip)
            blocks[strip] = reinterpret_cast<const CrossedBlock *>(strips[strip]) + block;
        Ints sums[ROWS][2];
        for (int row = 0; row < ROWS; ++row)
            for (int strip = 0; strip < 2; ++strip) sums[row][strip] = blocks[strip]->sum + starts[row];
        add_crossed<ROWS, 0>(sums, blocks, x);
        add_crossed<ROWS, 1>(sums, blocks, x);
        add_crossed<ROWS, 2>(sums, blocks, x);
        add_crossed<ROWS, 3>(sums, blocks, x);
        add_block<F>(outputs, sums, {blocks[0]->scale, blocks[1]->scale}, {blocks[0]->minimum, blocks[1]->minimum},
                     scales, weighted_sums);
        x += VECTORS * ROWS, starts += ROWS, scales += ROWS, weighted_sums += ROWS;
    }
    store_outputs(outputs, to);
}

// How two strips of a format are multiplied when they are unpacked: in pairs of codes,
template <class F, bool = are_crossed<F>>
struct ByUnpacked {
    static int64_t size(int64_t inputs) { return inputs / F::SIZE * sizeof(CrossedBlock); }
    static void unpack(const uint8_t *strip, int64_t inputs, uint8_t *to) { cross_strip<F>(strip, inputs, to); }
    template <int ROWS>
    static void multiply(const uint8_t *const (&strips)[2], const Tile &tile, int64_t inputs, float (*to)[PANEL],
                         const Behind &behind) {
        multiply_crossed<F, ROWS>(strips, tile, inputs, to, behind);
    }
};

// or, in the formats in "K", in the order in which they are packed.
template <class F>
struct ByUnpacked<F, false> {
    static int64_t size(int64_t inputs) { return Strips<Unpacked<F>>::size(inputs); }
    static void unpack(const uint8_t *strip, int64_t inputs, uint8_t *to) { unpack_strip<F>(strip, inputs, to); }
    template <int ROWS>
    static void multiply(const uint8_t *const (&strips)[2], const Tile &tile, int64_t inputs, float (*to)[PANEL],
                         const Behind &behind) {
        multiply_block_strips<Unpacked<F>, ROWS>(strips, tile, inputs, to, behind);
    }
};

}  // namespace
