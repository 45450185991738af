// Products with quantized matrices, computed from their codes.
//
// In bfloat16 models the inputs become integers of eight bits, so that four products of a code and an input are one
// instruction (VNNI, NEON), or two (AVX2, SSE). Their sums are exact. What is rounded is the sum over blocks, and it is
// added up in the order of the blocks, so an output does not depend on how many rows are computed with it. In float32
// models a strip is converted to floats, and nothing is rounded but sums.
//
// With several rows the limits are the ports of the processor: one or two that start an instruction of 512 bits a
// cycle, of those that multiply, and two that load; shifts, additions and conversions have others. 32 inputs of a row
// and sixteen outputs are eight products of codes, and then
//   - a product of scales and one with the sum, which is added to the output: 10 instructions, 11 with a minimum;
//   - in the formats in "K", whose group scales are integers, half a product of pairs of sums and scales (a whole one
//     in Q6_K, whose groups have 16 inputs), half a one for minimums, and two or three for every 256 inputs: 9.4, or
//     9.25.
// Nearly all of them need a number of the row, which is loaded into all lanes. So where there are tiles enough for the
// memory not to be the limit, two strips are multiplied at a time: each number is loaded once for both. With fewer rows
// the strips are read one after the other, since memory is fastest from front to back. With many rows, the codes of the
// formats in "K" are first unpacked, each to a byte, once for all tiles. A processor that starts one product a cycle
// has time for such loads and shifts meanwhile, so there the formats in "K" are multiplied strip by strip, as they are
// packed (`HAS_WIDE_BLOCK_TILES` in inputs.hpp).

#pragma once

#include "inputs.hpp"
#include "integer_products.hpp"
#include "strips.hpp"
#include "structures.hpp"

namespace {

// All lanes are shifted as far: given a number, the compiler would move it to another register first.
inline Ints shifted_right(Ints numbers, Ints by) {
#if defined(__AVX512F__)
    return (Ints)_mm512_srav_epi32((__m512i)numbers, (__m512i)by);
#else
    return numbers >> by;
#endif
}
inline Ints shifted_left(Ints numbers, Ints by) {
#if defined(__AVX512F__)
    return (Ints)_mm512_sllv_epi32((__m512i)numbers, (__m512i)by);
#else
    return numbers << by;
#endif
}

// The lower sixteen bits of each lane of one, and the upper ones of another.
inline Ints halves_of(Ints lower, Ints upper) {
#if HALVED
    return (lower & 0xffff) | (upper & ~0xffff);
#else
    constexpr Shorts IS_UPPER = {0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1,
                                 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1, 0, -1};
    return (Ints)(IS_UPPER ? (Shorts)upper : (Shorts)lower);
#endif
}

// Ask for a line of what will be read soon. It is read once in a step. If it stays out of the larger caches, it does
// not drive out what the next step needs there, the interpreter's data too. But not all processors are fast at that,
// and the others get it into the second-level cache (`ways_of_processor` in sources.py).
inline void ask_for_line(const uint8_t *from) {
#if PAST_CACHES
    __builtin_prefetch(from, 0, 0);
#else
    __builtin_prefetch(from, 0, 2);
#endif
}

// The same for as much as `bytes` of a strip by itself. How far ahead is best was found by trying. A processor that
// reads ahead is faster without such requests for a single row, and for two of Q8_0, which need less time. But it does
// not follow strips of Q6_K, Q3_K and Q2_K, unless what comes next is asked for in its order.
template <class F, int ROWS>
inline void prefetch(const uint8_t *from, int64_t bytes) {
    if (READS_AHEAD && ROWS <= (F::BITS == 8 ? 2 : 1)) {
        for (int64_t i = 0; F::GROUP_SIZE == 16 && i < bytes; i += 64) __builtin_prefetch(from + bytes + i);
        return;
    }
    constexpr int64_t AHEAD = ROWS > 1 ? 3 * PAGE : PAGE * 3 / 2;
    for (int64_t i = 0; i < bytes; i += 64) ask_for_line(from + i + AHEAD);
}

// While two strips are read, the same places of other two are asked for: so many bytes away from each.
template <int STRIPS>
struct Ahead {
    int64_t bytes[STRIPS] = {};
    void ask_for(const uint8_t *from, int strip) const {
        if (STRIPS == 2) ask_for_line(from + bytes[strip]);
    }
    void ask_for(const uint8_t *from, int strip, int64_t size) const {
        for (int64_t i = 0; i < size; i += 64) ask_for(from + i, strip);
    }
};

template <class F, int VECTOR = 0>
inline void unpack_codes(const uint8_t *codes, uint8_t *to) {
    if constexpr (VECTOR < VECTORS) {
        *reinterpret_cast<Bits *>(to + VECTOR * 64) = codes_at<F, VECTOR>(codes);
        unpack_codes<F, VECTOR + 1>(codes, to);
    }
}

template <class F>
void unpack_strip(const uint8_t *strip, int64_t inputs, uint8_t *to) {
    using From = Strips<F>;
    using To = Strips<Unpacked<F>>;
    for (int64_t block = 0; block < inputs / F::SIZE; ++block) {
        const uint8_t *scales = strip + From::scales_at(block);
        uint8_t *unpacked = to + To::scales_at(block);
        memcpy(unpacked, scales, To::OF_WHOLE_BYTES);
        for (int64_t i = 0; i < F::GROUP_SCALES / 4; ++i)
            *reinterpret_cast<Bits *>(unpacked + To::OF_WHOLE_BYTES + i * 64) = Scales<F>(scales).four(i);
        for (int64_t part = 0; part < From::PARTS; ++part)
            unpack_codes<F>(strip + From::codes_at(block) + part * From::CODE_BYTES,
                            to + To::codes_at(block) + part * To::CODE_BYTES);
    }
}

// What lies in memory behind strips that are unpacked. All tiles ask for it, block by block, each for a part of its
// own.
struct Behind {
    const uint8_t *from = nullptr;
    int64_t bytes_per_block = 0;
    void ask_for(int64_t block) const {
        for (int64_t i = 0; i < bytes_per_block; i += 64) ask_for_line(from + block * bytes_per_block + i);
    }
};

// To each row's sums, a vector of codes of each strip times the same four inputs. (All that is added to sums is
// inlined, or the compiler would keep them in memory.)
template <int BITS, int ROWS, int STRIPS>
[[gnu::always_inline]] inline void add_codes(Ints (&sums)[ROWS][STRIPS], const Bits (&codes)[STRIPS],
                                             const int32_t *inputs) {
    for (int row = 0; row < ROWS; ++row) {
        const Ints x = Ints{} + inputs[row];
        for (int strip = 0; strip < STRIPS; ++strip)
            sums[row][strip] = add_products<BITS>(sums[row][strip], codes[strip], x);
    }
}

template <class F, int ROWS, int STRIPS, int VECTOR>
[[gnu::always_inline]] inline void add_vector(Ints (&sums)[ROWS][STRIPS], const uint8_t *const (&codes)[STRIPS],
                                              const int32_t *inputs, const Ahead<STRIPS> &ahead) {
    Bits weights[STRIPS];
    for (int strip = 0; strip < STRIPS; ++strip) {
        if (VECTOR < F::BITS) ahead.ask_for(codes[strip] + VECTOR * 64, strip);
        weights[strip] = codes_at<F, VECTOR>(codes[strip]);
    }
    add_codes<F::MULTIPLIED_BITS>(sums, weights, inputs + VECTOR * ROWS);
}

// The same for the vectors from `first` to `last` - 1 of codes that are bytes. This is a loop, since the compiler takes
// a fifth less time for it than for all of them written out, and the products take as long.
template <int ROWS, int STRIPS>
[[gnu::always_inline]] inline void add_bytes(Ints (&sums)[ROWS][STRIPS], const uint8_t *const (&codes)[STRIPS],
                                             const int32_t *inputs, int first, int last) {
#pragma GCC unroll 2
    for (int vector = first; vector < last; ++vector) {
        Bits weights[STRIPS];
        for (int strip = 0; strip < STRIPS; ++strip) weights[strip] = load_bits(codes[strip] + vector * 64);
        add_codes<8>(sums, weights, inputs + vector * ROWS);
    }
}

// The order in which vectors are multiplied: one from upper bits as soon as those that it is in have been read.
template <class F>
constexpr int vector_at(int place) {
    constexpr int ORDERS[][VECTORS] = {{0, 4, 1, 5, 2, 6, 3, 7}, {0, 1, 5, 2, 3, 6, 4, 7}, {0, 1, 2, 3, 4, 5, 6, 7}};
    return ORDERS[F::GROUP_SIZE == 16 ? 2 : min(F::BITS - 4, 2)][place];
}

// To each row's sum, a group's codes times inputs: its vectors from FIRST on.
template <class F, int ROWS, int STRIPS, int FIRST>
[[gnu::always_inline]] inline void add_group(Ints (&sums)[ROWS][STRIPS], const uint8_t *const (&codes)[STRIPS],
                                             const int32_t *inputs, const Ahead<STRIPS> &ahead) {
    if constexpr (is_unpacked<F>) {
        add_bytes(sums, codes, inputs, FIRST, FIRST + F::GROUP_SIZE / CODES);
    } else {
        add_vector<F, ROWS, STRIPS, vector_at<F>(FIRST)>(sums, codes, inputs, ahead);
        add_vector<F, ROWS, STRIPS, vector_at<F>(FIRST + 1)>(sums, codes, inputs, ahead);
        add_vector<F, ROWS, STRIPS, vector_at<F>(FIRST + 2)>(sums, codes, inputs, ahead);
        add_vector<F, ROWS, STRIPS, vector_at<F>(FIRST + 3)>(sums, codes, inputs, ahead);
        if constexpr (F::GROUP_SIZE == 32) {
            add_vector<F, ROWS, STRIPS, vector_at<F>(4)>(sums, codes, inputs, ahead);
            add_vector<F, ROWS, STRIPS, vector_at<F>(5)>(sums, codes, inputs, ahead);
            add_vector<F, ROWS, STRIPS, vector_at<F>(6)>(sums, codes, inputs, ahead);
            add_vector<F, ROWS, STRIPS, vector_at<F>(7)>(sums, codes, inputs, ahead);
        }
    }
}

// What a group's sums begin with.
template <int ROWS, int STRIPS>
inline void begin_sums(Ints (&sums)[ROWS][STRIPS], const int32_t *starts, int32_t factor = 1) {
    for (int row = 0; row < ROWS; ++row) {
        const Ints start = (Ints{} + starts[row]) * factor;
        for (Ints &sum : sums[row]) sum = start;
    }
}

template <int ROWS, int STRIPS>
inline void store_outputs(const Floats (&outputs)[ROWS][STRIPS], float (*to)[PANEL]) {
    for (int row = 0; row < ROWS; ++row)
        for (int strip = 0; strip < STRIPS; ++strip) store(to[row] + strip * LANES, outputs[row][strip]);
}

// ROWS rows times STRIPS strips. `to` has PANEL floats for each row, of which this fills sixteen for each strip.
template <class F, int ROWS, int STRIPS>
void multiply_strips(const uint8_t *const (&strips)[STRIPS], const Tile &tile, int64_t inputs, float (*to)[PANEL],
                     const Ahead<STRIPS> &ahead) {
    Floats outputs[ROWS][STRIPS] = {};
    const int32_t *x = tile.codes, *offsets = tile.sums;
    const float *scales = tile.scales, *weighted_sums = tile.weighted_sums;
    const uint8_t *read = strips[0];
    for (int64_t block = 0; block < inputs / F::SIZE; ++block, read += Strips<F>::BLOCK_BYTES) {
        if (STRIPS == 1) prefetch<F, ROWS>(read, Strips<F>::BLOCK_BYTES);
        const uint8_t *codes[STRIPS];
        Floats of_block[STRIPS], minimums[STRIPS];
        for (int strip = 0; strip < STRIPS; ++strip) {
            codes[strip] = strips[strip] + Strips<F>::codes_at(block);
            const uint8_t *of_strip = strips[strip] + Strips<F>::scales_at(block);
            ahead.ask_for(of_strip, strip, Strips<F>::SCALE_BYTES);
            of_block[strip] = Scales<F>(of_strip).scale, minimums[strip] = Scales<F>(of_strip).minimum;
        }
        Ints sums[ROWS][STRIPS];
        begin_sums(sums, offsets, F::OFFSET / Tile::OFFSET_UNIT);
        add_group<F, ROWS, STRIPS, 0>(sums, codes, x, ahead);
        for (int row = 0; row < ROWS; ++row) {
            const Floats scale = broadcast(scales[row]), weighted_sum = broadcast(weighted_sums[row]);
            for (int strip = 0; strip < STRIPS; ++strip) {
                Floats &output = outputs[row][strip];
                output = multiply_add(to_floats(sums[row][strip]), of_block[strip] * scale, output);
                if (F::HAS_MINIMUM) output = multiply_add(minimums[strip], weighted_sum, output);
            }
        }
        x += VECTORS * ROWS, offsets += ROWS, scales += ROWS, weighted_sums += ROWS;
    }
    store_outputs(outputs, to);
}

// What a block of a format in "K" reads of a tile; it moves on with each pair of groups.
template <class F, int ROWS>
struct Reading {
    const int32_t *codes, *starts, *right, *left;
    Reading(const Tile &tile, const Shifts &shifts)
        : codes(tile.codes), starts(IS_WIDE ? shifts.starts : tile.half_starts), right(shifts.right),
          left(shifts.left) {}

    static constexpr bool IS_WIDE = F::GROUP_SIZE == GROUP_INPUTS;  // or two groups are in the same 32 inputs
    void next_group() { starts += ROWS; }
    void next_inputs() { codes += VECTORS * ROWS, right += ROWS, left += ROWS; }
};

// A pair of groups' sums, each cut to sixteen bits, times their scales: to each row's sums over a block.
template <class F, int ROWS, int STRIPS>
[[gnu::always_inline]] inline void add_pair(Ints (&sums)[ROWS][STRIPS], const uint8_t *const (&codes)[STRIPS],
                                            Reading<F, ROWS> &x, const Ints (&scales)[STRIPS],
                                            const Ahead<STRIPS> &ahead) {
    constexpr bool IS_WIDE = Reading<F, ROWS>::IS_WIDE;
    Ints lower[ROWS][STRIPS], upper[ROWS][STRIPS];
    begin_sums(lower, x.starts);
    add_group<F, ROWS, STRIPS, 0>(lower, codes, x.codes, ahead);
    for (int row = 0; row < ROWS; ++row) {
        const Ints by = Ints{} + x.right[row];
        for (Ints &sum : lower[row]) sum = shifted_right(sum, by);
    }
    x.next_group();
    if (IS_WIDE) x.next_inputs();
    const uint8_t *second[STRIPS];
    for (int strip = 0; strip < STRIPS; ++strip) second[strip] = codes[strip] + (IS_WIDE ? Strips<F>::CODE_BYTES : 0);
    begin_sums(upper, x.starts);
    add_group<F, ROWS, STRIPS, IS_WIDE ? 0 : 4>(upper, second, x.codes, ahead);
    for (int row = 0; row < ROWS; ++row) {
        const Ints by = Ints{} + x.left[row];
        for (int strip = 0; strip < STRIPS; ++strip) {
            const Ints pair = halves_of(lower[row][strip], shifted_left(upper[row][strip], by));
            sums[row][strip] = add_pairs(sums[row][strip], pair, scales[strip]);
        }
    }
    x.next_group();
    x.next_inputs();
}

// The same in the formats in "K". Within a block all sums are of integers.
template <class F, int ROWS, int STRIPS>
void multiply_block_strips(const uint8_t *const (&strips)[STRIPS], const Tile &tile, int64_t inputs, float (*to)[PANEL],
                           const Ahead<STRIPS> &ahead, const Behind &behind = {}) {
    constexpr int64_t PAIRS = F::GROUPS / 2, PAIR_BYTES = Strips<F>::BLOCK_BYTES / PAIRS;
    constexpr int64_t PAIR_CODES = Strips<F>::PARTS * Strips<F>::CODE_BYTES / PAIRS;
    Floats outputs[ROWS][STRIPS] = {};
    const Shifts &shifts = F::MULTIPLIED_BITS == 8 ? tile.wide_shifts : tile.shifts;
    Reading<F, ROWS> x(tile, shifts);
    const int32_t *pair_sums = x.IS_WIDE ? tile.pair_sums : tile.half_pair_sums;
    const float *block_scales = shifts.block_scales;
    const uint8_t *read = strips[0];
    for (int64_t block = 0; block < inputs / F::SIZE; ++block, block_scales += ROWS) {
        const int64_t scales_at = Strips<F>::scales_at(block), codes_at = Strips<F>::codes_at(block);
        const auto of_block = [&](int strip) { return Scales<F>(strips[strip] + scales_at); };
        const uint8_t *codes[STRIPS];
        for (int strip = 0; strip < STRIPS; ++strip) {
            codes[strip] = strips[strip] + codes_at;
            if constexpr (!is_unpacked<F>) ahead.ask_for(strips[strip] + scales_at, strip, Strips<F>::SCALE_BYTES);
        }
        if constexpr (is_unpacked<F>) behind.ask_for(block);
        Ints sums[ROWS][STRIPS] = {}, minimums[ROWS][STRIPS] = {};
        for (int64_t pair = 0; pair < PAIRS; ++pair, read += PAIR_BYTES) {
            if (STRIPS == 1) prefetch<F, ROWS>(read, PAIR_BYTES);
            Ints scales[STRIPS];
            for (int strip = 0; strip < STRIPS; ++strip) scales[strip] = of_block(strip).of_pair(pair);
            add_pair<F, ROWS, STRIPS>(sums, codes, x, scales, ahead);
            for (const uint8_t *&at : codes) at += PAIR_CODES;
        }
        for (int64_t pair = 0; F::HAS_MINIMUM && pair < PAIRS; ++pair, pair_sums += ROWS)
            for (int strip = 0; strip < STRIPS; ++strip) {
                const Ints of_pair = of_block(strip).minimums_of_pair(pair);
                for (int row = 0; row < ROWS; ++row)
                    minimums[row][strip] = add_pairs(minimums[row][strip], of_pair, Ints{} + pair_sums[row]);
            }
        for (int strip = 0; strip < STRIPS; ++strip) {
            const Floats scale = of_block(strip).scale, minimum = of_block(strip).minimum / Tile::SUM_PARTS;
            for (int row = 0; row < ROWS; ++row) {
                Floats result = to_floats(sums[row][strip]) * scale;
                if (F::HAS_MINIMUM) result = multiply_add(to_floats(minimums[row][strip]), minimum, result);
                outputs[row][strip] = multiply_add(result, broadcast(block_scales[row]), outputs[row][strip]);
            }
        }
    }
    store_outputs(outputs, to);
}

template <class F, int ROWS, int STRIPS>
void multiply(const uint8_t *const (&strips)[STRIPS], const Tile &tile, int64_t inputs, float (*to)[PANEL],
              const Ahead<STRIPS> &ahead = {}) {
    if constexpr (F::HAS_GROUP_SCALES)
        multiply_block_strips<F, ROWS>(strips, tile, inputs, to, ahead);
    else
        multiply_strips<F, ROWS>(strips, tile, inputs, to, ahead);
}

// The same with one strip, for a number of rows that is known only at run time.
template <class F, int ROWS = F::HAS_GROUP_SCALES ? ROWS_OF_BLOCK_TILE : ROWS_OF_TILE>
void multiply_strip_by(int64_t rows, const uint8_t *strip, const Tile &tile, int64_t inputs, float (*to)[PANEL]) {
    if constexpr (ROWS > 1)
        if (rows < ROWS) return multiply_strip_by<F, ROWS - 1>(rows, strip, tile, inputs, to);
    multiply<F, ROWS>({strip}, tile, inputs, to);
}

}  // namespace
