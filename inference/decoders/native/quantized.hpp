// Products with quantized matrices, computed from their codes.
//
// In bfloat16 models the inputs become integers of eight bits, so that four products of a code and an input are one
// instruction (VNNI). Their sums are exact. What is rounded is the sum over blocks, and it is added up in the order of
// the blocks, so an output does not depend on how many rows are computed with it. In float32 models a strip is
// converted to floats, and nothing is rounded but sums.
//
// With several rows the limit is a port of the processor that starts one instruction of 512 bits a cycle, of those that
// multiply; loads, shifts, additions and conversions have others. 32 inputs of a row and sixteen outputs are eight
// products of codes, and then
//   - a product of scales and one with the sum, which is added to the output: 10 instructions, 11 with a minimum;
//   - in the formats in "K", whose group scales are integers, half a product of pairs of sums and scales (a whole one
//   in
//     Q6_K, whose groups have 16 inputs), half a one for minimums, and two or three for every 256 inputs: 9.4, or 9.25.

#pragma once

#include "inputs.hpp"
#include "strips.hpp"
#include "structures.hpp"

namespace {

// To each lane's sum, four unsigned codes times four signed inputs, which are the same for all lanes.
inline Ints add_products(Ints sums, Bits codes, int32_t inputs) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, (__m512i)(Ints{} + inputs));
#else
    for (int i = 0; i < CODES; ++i)
        sums += (Ints)(codes >> uint32_t(8 * i) & 0xff) * int32_t(int8_t(uint32_t(inputs) >> 8 * i));
    return sums;
#endif
}

// To each lane's sum, two products of numbers of sixteen bits.
inline Ints add_pairs(Ints sums, Ints a, Ints b) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)a, (__m512i)b);
#else
    return sums + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

// All lanes are shifted as far: the compiler would load that into a register of its own first.
inline Ints shifted_right(Ints numbers, int32_t by) {
#if defined(__AVX512F__)
    return (Ints)_mm512_srav_epi32((__m512i)numbers, (__m512i)(Ints{} + by));
#else
    return numbers >> by;
#endif
}
inline Ints shifted_left(Ints numbers, int32_t by) {
#if defined(__AVX512F__)
    return (Ints)_mm512_sllv_epi32((__m512i)numbers, (__m512i)(Ints{} + by));
#else
    return numbers << by;
#endif
}

// The lower sixteen bits of each lane of one, and the upper ones of another.
inline Ints halves_of(Ints lower, Ints upper) {
    constexpr Shorts IS_UPPER = {0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1,
                                 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1};
    return (Ints)(IS_UPPER ? (Shorts)upper : (Shorts)lower);
}

template <class F, int ROWS, int VECTOR>
inline void add_vector(Ints (&sums)[ROWS], const uint8_t *codes, const int32_t *inputs) {
    const Bits weights = codes_at<F, VECTOR>(codes);
    for (int row = 0; row < ROWS; ++row) sums[row] = add_products(sums[row], weights, inputs[VECTOR * ROWS + row]);
}

// The order in which vectors are multiplied: one from upper bits as soon as those that it is in have been read.
template <class F>
constexpr int vector_at(int place) {
    constexpr int ORDERS[][VECTORS] = {{0, 4, 1, 5, 2, 6, 3, 7}, {0, 1, 5, 2, 3, 6, 4, 7}, {0, 1, 2, 3, 4, 5, 6, 7}};
    return ORDERS[min(F::BITS - 4, 2)][place];
}

// To each row's sum, a group's codes times inputs: its vectors from FIRST on.
template <class F, int ROWS, int FIRST>
inline void add_group(Ints (&sums)[ROWS], const uint8_t *codes, const int32_t *inputs) {
    add_vector<F, ROWS, vector_at<F>(FIRST)>(sums, codes, inputs);
    add_vector<F, ROWS, vector_at<F>(FIRST + 1)>(sums, codes, inputs);
    add_vector<F, ROWS, vector_at<F>(FIRST + 2)>(sums, codes, inputs);
    add_vector<F, ROWS, vector_at<F>(FIRST + 3)>(sums, codes, inputs);
    if constexpr (F::GROUP_SIZE == 32) {
        add_vector<F, ROWS, vector_at<F>(4)>(sums, codes, inputs);
        add_vector<F, ROWS, vector_at<F>(5)>(sums, codes, inputs);
        add_vector<F, ROWS, vector_at<F>(6)>(sums, codes, inputs);
        add_vector<F, ROWS, vector_at<F>(7)>(sums, codes, inputs);
    }
}

// Ask for `bytes` bytes of what will be read soon. A row by itself reads so fast that one request, in time, is best;
// with more rows there is time to bring memory to the second cache first, and from there to the first.
template <int ROWS>
inline void prefetch(const uint8_t *from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) {
        if (ROWS > 1) __builtin_prefetch(from + i + 4 * PAGE, 0, 2);
        __builtin_prefetch(from + i + PAGE * 3 / 2, 0, 3);
    }
}

// ROWS rows times one strip. `to` has PANEL floats for each row, of which this fills sixteen.
template <class F, int ROWS>
void multiply_strip(const uint8_t *strip, const Tile &tile, int64_t inputs, float (*to)[PANEL]) {
    const uint8_t *read = strip;
    Floats outputs[ROWS] = {};
    const int32_t *x = tile.codes, *offsets = tile.sums;
    const float *scales = tile.scales, *weighted_sums = tile.weighted_sums;
    for (int64_t block = 0; block < inputs / F::SIZE; ++block, read += Strips<F>::BLOCK_BYTES) {
        prefetch<ROWS>(read, Strips<F>::BLOCK_BYTES);
        const Scales<F> of_block(strip + Strips<F>::scales_at(block));
        Ints sums[ROWS];
        for (int row = 0; row < ROWS; ++row) sums[row] = (Ints{} + offsets[row]) * (F::OFFSET / Tile::OFFSET_UNIT);
        add_group<F, ROWS, 0>(sums, strip + Strips<F>::codes_at(block), x);
        for (int row = 0; row < ROWS; ++row)
            outputs[row] = add_product(to_floats(sums[row]), of_block.scale * scales[row], outputs[row]);
        for (int row = 0; F::HAS_MINIMUM && row < ROWS; ++row)
            outputs[row] = add_product(of_block.minimum, same(weighted_sums[row]), outputs[row]);
        x += VECTORS * ROWS, offsets += ROWS, scales += ROWS, weighted_sums += ROWS;
    }
    for (int row = 0; row < ROWS; ++row) store(to[row], outputs[row]);
}

// What a block of a format in "K" reads of a tile; it moves on with each pair of groups.
template <class F, int ROWS>
struct Reading {
    const int32_t *codes, *starts, *right, *left;
    explicit Reading(const Tile &tile)
        : codes(tile.codes), starts(IS_WIDE ? tile.starts : tile.half_starts), right(tile.right), left(tile.left) {}

    static constexpr bool IS_WIDE = F::GROUP_SIZE == GROUP_INPUTS;  // or two groups are in the same 32 inputs
    void next_group() { starts += ROWS; }
    void next_inputs() { codes += VECTORS * ROWS, right += ROWS, left += ROWS; }
};

// A pair of groups' sums, each cut to sixteen bits, times their scales: to each row's sum over a block.
template <class F, int ROWS>
inline void add_pair(Ints (&sums)[ROWS], const uint8_t *codes, Reading<F, ROWS> &x, Ints scales) {
    constexpr bool IS_WIDE = Reading<F, ROWS>::IS_WIDE;
    Ints lower[ROWS], upper[ROWS];
    for (int row = 0; row < ROWS; ++row) lower[row] = Ints{} + x.starts[row];
    add_group<F, ROWS, 0>(lower, codes, x.codes);
    for (int row = 0; row < ROWS; ++row) lower[row] = shifted_right(lower[row], x.right[row]);
    x.next_group();
    if (IS_WIDE) x.next_inputs();
    for (int row = 0; row < ROWS; ++row) upper[row] = Ints{} + x.starts[row];
    add_group<F, ROWS, IS_WIDE ? 0 : 4>(upper, codes + (IS_WIDE ? Strips<F>::CODE_BYTES : 0), x.codes);
    for (int row = 0; row < ROWS; ++row)
        sums[row] = add_pairs(sums[row], halves_of(lower[row], shifted_left(upper[row], x.left[row])), scales);
    x.next_group();
    x.next_inputs();
}

// The same in the formats in "K". Within a block all sums are of integers.
template <class F, int ROWS>
void multiply_block_strip(const uint8_t *strip, const Tile &tile, int64_t inputs, float (*to)[PANEL]) {
    constexpr int64_t PAIRS = F::GROUPS / 2, PAIR_BYTES = Strips<F>::BLOCK_BYTES / PAIRS;
    const uint8_t *read = strip;
    Floats outputs[ROWS] = {};
    Reading<F, ROWS> x(tile);
    const int32_t *pair_sums = tile.pair_sums;
    const float *block_scales = tile.block_scales;
    for (int64_t block = 0; block < inputs / F::SIZE; ++block) {
        const Scales<F> of_block(strip + Strips<F>::scales_at(block));
        const uint8_t *codes = strip + Strips<F>::codes_at(block);
        Ints sums[ROWS] = {}, minimums[ROWS] = {};
        for (int64_t pair = 0; pair < PAIRS; ++pair, read += PAIR_BYTES) {
            prefetch<ROWS>(read, PAIR_BYTES);
            add_pair<F, ROWS>(sums, codes, x, of_block.of_pair(pair));
            codes += Strips<F>::PARTS * Strips<F>::CODE_BYTES / PAIRS;
        }
        for (int64_t pair = 0; F::HAS_MINIMUM && pair < PAIRS; ++pair, pair_sums += ROWS)
            for (int row = 0; row < ROWS; ++row)
                minimums[row] = add_pairs(minimums[row], of_block.minimums_of_pair(pair), Ints{} + pair_sums[row]);
        for (int row = 0; row < ROWS; ++row) {
            Floats result = to_floats(sums[row]) * of_block.scale;
            if (F::HAS_MINIMUM)
                result = add_product(to_floats(minimums[row]), of_block.minimum / Tile::SUM_PARTS, result);
            outputs[row] = add_product(result, same(block_scales[row]), outputs[row]);
        }
        block_scales += ROWS;
    }
    for (int row = 0; row < ROWS; ++row) store(to[row], outputs[row]);
}

template <class F, int ROWS = F::HAS_GROUP_SCALES ? ROWS_OF_BLOCK_TILE : ROWS_OF_TILE>
void multiply_strip_by(int64_t rows, const uint8_t *strip, const Tile &tile, int64_t inputs, float (*to)[PANEL]) {
    if constexpr (ROWS > 1)
        if (rows < ROWS) return multiply_strip_by<F, ROWS - 1>(rows, strip, tile, inputs, to);
    if constexpr (F::HAS_GROUP_SCALES)
        multiply_block_strip<F, ROWS>(strip, tile, inputs, to);
    else
        multiply_strip<F, ROWS>(strip, tile, inputs, to);
}

}  // namespace
