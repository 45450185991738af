// Products with quantized matrices, computed from their codes.
//
// A strip is sixteen outputs of a matrix, one in each lane of a vector. Its blocks are laid out once, at the start, in
// the order in which they are read: for every one or two blocks their scales, which fill whole cache lines, then their
// codes in the order in which they are multiplied, as many bits each as in the file. So a strip is one stream of
// memory, from front to back.
//
// In bfloat16 models the inputs become integers of eight bits, with one scale for every 32 of them, so that four
// products of a code and an input are one instruction (VNNI). Their sums are exact. What is rounded is the sum over
// blocks, and it is added up in the order of the blocks, so an output does not depend on how many rows are computed
// with it. In float32 models a strip is converted to floats, and nothing is rounded but sums.

#pragma once

#include "blocks.hpp"
#include "numbers.hpp"
#include "structures.hpp"

namespace {

constexpr int64_t GROUP_INPUTS = 32, CODES = 4;  // inputs that share a scale; codes that lie side by side in a lane

// --- How a strip lies in memory
// ---------------------------------------------------------------------------------------

template <class F>
struct Strips {
    static constexpr int64_t SCALE_BYTES = LANES * (2 + (F::HAS_MINIMUM ? 2 : 0)) +
                                           (F::HAS_GROUP_SCALES ? LANES * F::GROUPS * (F::HAS_MINIMUM ? 2 : 1) : 0);
    static constexpr int64_t CODE_BYTES = LANES * GROUP_INPUTS * F::BITS / 8;  // of 32 inputs
    static constexpr int64_t PARTS = F::SIZE / GROUP_INPUTS;                   // of a block
    static constexpr int64_t TOGETHER = SCALE_BYTES % 64 ? 2 : 1;  // blocks whose scales come before their codes
    static constexpr int64_t BYTES_TOGETHER = TOGETHER * (SCALE_BYTES + PARTS * CODE_BYTES);

    static int64_t size(int64_t inputs) {
        const int64_t blocks = inputs / F::SIZE;
        return (blocks + blocks % TOGETHER) * SCALE_BYTES + blocks * PARTS * CODE_BYTES;
    }
    static int64_t scales_at(int64_t block) {
        return block / TOGETHER * BYTES_TOGETHER + block % TOGETHER * SCALE_BYTES;
    }
    static int64_t codes_at(int64_t block) {
        return block / TOGETHER * BYTES_TOGETHER + TOGETHER * SCALE_BYTES + block % TOGETHER * PARTS * CODE_BYTES;
    }

    // Lay out `rows` rows of blocks, `row_bytes` from one to the next; lanes without a row have scales of zero.
    static void pack(const uint8_t *from, int64_t rows, int64_t inputs, uint8_t *to) {
        const int64_t row_bytes = inputs / F::SIZE * F::BYTES;
        if (rows < LANES) memset(to, 0, size(inputs));
        for (int64_t block = 0; block < inputs / F::SIZE; ++block)
            for (int64_t lane = 0; lane < rows; ++lane) {
                Opened opened;
                F::open(from + lane * row_bytes + block * F::BYTES, opened);
                pack_scales(opened, lane, to + scales_at(block));
                for (int64_t part = 0; part < PARTS; ++part)
                    pack_codes(opened.codes + part * GROUP_INPUTS, lane, to + codes_at(block) + part * CODE_BYTES);
            }
    }

    static void pack_scales(const Opened &block, int64_t lane, uint8_t *to) {
        memcpy(to + 2 * lane, &block.scale, 2);
        to += 2 * LANES;
        if (F::HAS_MINIMUM) {
            memcpy(to + 2 * lane, &block.minimum, 2);
            to += 2 * LANES;
        }
        for (int group = 0; F::HAS_GROUP_SCALES && group < F::GROUPS; ++group) {
            to[group * LANES + lane] = block.group_scales[group];
            if (F::HAS_MINIMUM) to[(F::GROUPS + group) * LANES + lane] = block.group_minimums[group];
        }
    }

    // 32 codes of one lane. A vector of a strip's codes holds four for each lane; the vectors are 0 to 7, and two share
    // their bytes if a code has less than eight bits. Fifth and sixth bits follow in vectors of their own.
    static void pack_codes(const uint8_t *codes, int64_t lane, uint8_t *to) {
        constexpr int VECTORS = GROUP_INPUTS / CODES;
        uint32_t from[VECTORS], packed[VECTORS] = {};
        memcpy(from, codes, sizeof from);
        for (int i = 0; i < VECTORS; ++i) {
            const uint32_t lower = from[i] & 0x0f0f0f0f, upper = from[i] >> 4 & 0x0f0f0f0f;
            if (F::BITS == 8)
                packed[i] = from[i];
            else
                packed[i / 2] |= lower << (i % 2 * 4);
            if (F::BITS == 5) packed[4] |= upper << i;
            if (F::BITS == 6) packed[4 + i / 4] |= upper << (i % 4 * 2);
        }
        for (int i = 0; i < CODE_BYTES / 64; ++i) memcpy(to + i * 64 + lane * CODES, packed + i, CODES);
    }
};

inline Bits load_bits(const uint8_t *from) { return *reinterpret_cast<const Bits *>(from); }

// Vector VECTOR of the eight that hold the codes of 32 inputs: four bytes in each lane.
template <class F, int VECTOR>
inline Bits codes_at(const uint8_t *codes) {
    if (F::BITS == 8) return load_bits(codes + VECTOR * 64);
    const Bits nibbles = load_bits(codes + VECTOR / 2 * 64) >> (VECTOR % 2 * 4) & 0x0f0f0f0f;
    if (F::BITS == 4) return nibbles;
    constexpr int BIT = F::BITS == 5 ? VECTOR : VECTOR % 4 * 2;  // where the upper bits are; they belong at bit 4
    const Bits upper = load_bits(codes + 256 + (F::BITS == 6 ? VECTOR / 4 * 64 : 0));
    const Bits moved = BIT < 4 ? upper << (4 - BIT & 31) : upper >> (BIT - 4 & 31);
    return nibbles | (moved & (F::BITS == 5 ? 0x10101010 : 0x30303030));
}

// The scales of a block and of its groups, a lane for each output.
template <class F>
struct Scales {
    const uint8_t *from;
    Floats scale, minimum;

    explicit Scales(const uint8_t *from) : from(from), scale(load_halves(from)), minimum() {
        if (F::HAS_MINIMUM) minimum = load_halves(from + 2 * LANES);
    }
    Floats of_group(int64_t group) const {
        if (!F::HAS_GROUP_SCALES) return scale;
        const uint8_t *at = from + 2 * LANES * (F::HAS_MINIMUM ? 2 : 1) + group * LANES;
        return scale * (F::HAS_MINIMUM ? load(at) : load(reinterpret_cast<const int8_t *>(at)));
    }
    Floats minimum_of_group(int64_t group) const {
        if (!F::HAS_GROUP_SCALES) return minimum;
        return minimum * load(from + 4 * LANES + (F::GROUPS + group) * LANES);
    }
};

// A strip as floats, `step` floats from one input's sixteen weights to the next one's.
template <class F, class To>
void widen_strip(const uint8_t *strip, int64_t inputs, int64_t step, To *to) {
    for (int64_t block = 0; block < inputs / F::SIZE; ++block) {
        const Scales<F> scales(strip + Strips<F>::scales_at(block));
        const uint8_t *codes = strip + Strips<F>::codes_at(block);
        for (int64_t part = 0; part < Strips<F>::PARTS; ++part, codes += Strips<F>::CODE_BYTES) {
            const Bits vectors[] = {codes_at<F, 0>(codes), codes_at<F, 1>(codes), codes_at<F, 2>(codes),
                                    codes_at<F, 3>(codes), codes_at<F, 4>(codes), codes_at<F, 5>(codes),
                                    codes_at<F, 6>(codes), codes_at<F, 7>(codes)};
            for (int64_t i = 0; i < GROUP_INPUTS; ++i, to += step) {
                const int64_t group = (part * GROUP_INPUTS + i) / F::GROUP_SIZE;
                const Ints code = (Ints)(vectors[i / CODES] >> uint32_t(i % CODES * 8) & 0xff) - F::OFFSET;
                store(to,
                      __builtin_convertvector(code, Floats) * scales.of_group(group) - scales.minimum_of_group(group));
            }
        }
    }
}

// --- Inputs as integers of eight bits
// ----------------------------------------------------------------------------------

#if defined(__AVX512F__)
constexpr int64_t ROWS_OF_TILE = 12;  // so many sums fit the registers
#else
constexpr int64_t ROWS_OF_TILE = 4;
#endif

// How rows are divided into tiles of about equal size. Only the layout depends on it, and no result.
struct Tiling {
    int64_t rows, tiles;
    explicit Tiling(int64_t rows) : rows(rows), tiles((rows + ROWS_OF_TILE - 1) / ROWS_OF_TILE) {}
    int64_t first(int64_t tile) const { return tile * rows / tiles; }
    int64_t count(int64_t tile) const { return first(tile + 1) - first(tile); }
};

// A tile of `count` rows: four codes in each number, and for 32 inputs a scale, the sum of the codes, also that of
// either half, and the weighted sum: with its scale. All sums are negative. Those of codes are for the formats' offsets
// and multiplied with what all of these have in common, so a row of Q4_0 begins with its sum as it is.
struct Tile {
    static constexpr int32_t OFFSET_UNIT = 8;
    int32_t *codes;                 // [inputs / 4][count]
    float *scales, *weighted_sums;  // [inputs / 32][count]
    int32_t *sums, *half_sums;      // [inputs / 32][count], [inputs / 16][count]

    static int64_t row_size(int64_t inputs) { return inputs + inputs / GROUP_INPUTS * 20; }  // bytes
    Tile(uint8_t *at, int64_t count, int64_t inputs) {
        const int64_t groups = inputs / GROUP_INPUTS * count;
        codes = reinterpret_cast<int32_t *>(at);
        scales = reinterpret_cast<float *>(codes + inputs / CODES * count);
        weighted_sums = scales + groups;
        sums = reinterpret_cast<int32_t *>(weighted_sums + groups);
        half_sums = sums + groups;
    }
};

// The largest magnitude, as the bits of a float: those that are no number are larger than all others.
inline int32_t largest_magnitude(Floats left, Floats right) {
    const Ints a = (Ints)left & 0x7fffffff, b = (Ints)right & 0x7fffffff;
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32(_mm512_max_epi32((__m512i)a, (__m512i)b));
#else
    const Ints most = a > b ? a : b;
    int32_t largest = 0;
    for (int64_t i = 0; i < LANES; ++i) largest = most[i] > largest ? most[i] : largest;
    return largest;
#endif
}

// Sixteen inputs to the nearest integers, into `codes`; returns their sum.
inline int32_t round_inputs(Floats inputs, float factor, int8_t *codes) {
#if defined(__AVX512F__)
    const UnsignedBytes bytes = (UnsignedBytes)_mm512_cvtepi32_epi8(_mm512_cvtps_epi32((__m512)(inputs * factor)));
    put(reinterpret_cast<uint8_t *>(codes), bytes);
    const __m128i halves = (__m128i)_mm_sad_epu8((__m128i)(bytes ^ 0x80), __m128i{});
    return int32_t(halves[0] + halves[1]) - LANES * 128;
#else
    constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it leaves no place for a fraction
    const Ints rounded = __builtin_convertvector((inputs * factor + ROUNDER) - ROUNDER, Ints);
    int32_t sum = 0;
    for (int64_t i = 0; i < LANES; ++i) codes[i] = int8_t(rounded[i]), sum += codes[i];
    return sum;
#endif
}

// 32 inputs of one row of a tile; `x` is where they are.
inline void quantize_group(const float *x, const Tile &tile, int64_t count, int64_t group, int64_t row) {
    const Floats left = load(x), right = load(x + LANES);
    const int32_t bits = largest_magnitude(left, right);
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    int8_t codes[GROUP_INPUTS];
    const float factor = largest > 0 ? 127 / largest : 0;
    const int32_t first = round_inputs(left, factor, codes), second = round_inputs(right, factor, codes + LANES);
    const int64_t at = group * count + row;
    tile.scales[at] = largest / 127;
    tile.sums[at] = -Tile::OFFSET_UNIT * (first + second);
    tile.half_sums[at + group * count] = -Tile::OFFSET_UNIT * first;
    tile.half_sums[at + (group + 1) * count] = -Tile::OFFSET_UNIT * second;
    tile.weighted_sums[at] = -tile.scales[at] * (first + second);
    for (int64_t i = 0; i < GROUP_INPUTS / CODES; ++i)
        memcpy(tile.codes + (group * GROUP_INPUTS / CODES + i) * count + row, codes + i * CODES, CODES);
}

// --- The product
// -------------------------------------------------------------------------------------------------------

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

template <class F, int ROWS, int VECTOR>
inline void add_vector(Ints (&sums)[ROWS], const uint8_t *codes, const int32_t *inputs) {
    const Bits weights = codes_at<F, VECTOR>(codes);
    for (int row = 0; row < ROWS; ++row) sums[row] = add_products(sums[row], weights, inputs[VECTOR * ROWS + row]);
}

// The sums over one group of inputs, as integers, become part of the outputs.
template <class F, int ROWS, int FIRST>
inline void add_group(Floats (&outputs)[ROWS], const uint8_t *codes, const int32_t *inputs, const int32_t *offsets,
                      const float *input_scales, Floats scale) {
    Ints sums[ROWS];
    for (int row = 0; row < ROWS; ++row) sums[row] = (Ints{} + offsets[row]) * (F::OFFSET / Tile::OFFSET_UNIT);
    add_vector<F, ROWS, FIRST>(sums, codes, inputs);
    add_vector<F, ROWS, FIRST + 1>(sums, codes, inputs);
    add_vector<F, ROWS, FIRST + 2>(sums, codes, inputs);
    add_vector<F, ROWS, FIRST + 3>(sums, codes, inputs);
    if constexpr (F::GROUP_SIZE == 32) {
        add_vector<F, ROWS, 4>(sums, codes, inputs);
        add_vector<F, ROWS, 5>(sums, codes, inputs);
        add_vector<F, ROWS, 6>(sums, codes, inputs);
        add_vector<F, ROWS, 7>(sums, codes, inputs);
    }
    for (int row = 0; row < ROWS; ++row)
        outputs[row] = add_product(__builtin_convertvector(sums[row], Floats), scale * input_scales[row], outputs[row]);
}

// Ask for `bytes` bytes of what will be read soon. A row by itself reads so fast that one request, in time, is best;
// with more rows there is time to bring memory to the second cache first, and from there to the first.
template <int ROWS>
inline void prefetch(const uint8_t *from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) {
        if (ROWS > 1) __builtin_prefetch(from + i + 4 * PAGE, 0, 2);
        __builtin_prefetch(from + i + (ROWS > 1 ? PAGE * 3 / 2 : PAGE), 0, 3);
    }
}

// ROWS rows times one strip. `to` has PANEL floats for each row, of which this fills sixteen.
template <class F, int ROWS>
void multiply_strip(const uint8_t *strip, const Tile &tile, int64_t inputs, float (*to)[PANEL]) {
    constexpr int64_t PART_BYTES = Strips<F>::CODE_BYTES + Strips<F>::SCALE_BYTES / Strips<F>::PARTS;
    const uint8_t *read = strip;
    Floats outputs[ROWS] = {};
    const int32_t *x = tile.codes, *sums = tile.sums, *halves = tile.half_sums;
    const float *scales = tile.scales, *weighted_sums = tile.weighted_sums;
    for (int64_t block = 0; block < inputs / F::SIZE; ++block) {
        const Scales<F> of_block(strip + Strips<F>::scales_at(block));
        const uint8_t *codes = strip + Strips<F>::codes_at(block);
        for (int64_t part = 0; part < Strips<F>::PARTS; ++part, codes += Strips<F>::CODE_BYTES, read += PART_BYTES) {
            prefetch<ROWS>(read, PART_BYTES);
            if constexpr (F::GROUP_SIZE == 32) {
                add_group<F, ROWS, 0>(outputs, codes, x, sums, scales, of_block.of_group(part));
            } else {
                add_group<F, ROWS, 0>(outputs, codes, x, halves, scales, of_block.of_group(2 * part));
                add_group<F, ROWS, 4>(outputs, codes, x, halves + ROWS, scales, of_block.of_group(2 * part + 1));
            }
            if (F::HAS_MINIMUM) {
                const Floats minimum = of_block.minimum_of_group(part);
                for (int row = 0; row < ROWS; ++row)
                    outputs[row] = add_product(minimum, Floats{} + weighted_sums[row], outputs[row]);
            }
            x += GROUP_INPUTS / CODES * ROWS;
            sums += ROWS, halves += 2 * ROWS, scales += ROWS, weighted_sums += ROWS;
        }
    }
    for (int row = 0; row < ROWS; ++row) store(to[row], outputs[row]);
}

template <class F, int ROWS = ROWS_OF_TILE>
void multiply_strip_by(int64_t rows, const uint8_t *strip, const Tile &tile, int64_t inputs, float (*to)[PANEL]) {
    if (rows == ROWS) return multiply_strip<F, ROWS>(strip, tile, inputs, to);
    if constexpr (ROWS > 1) multiply_strip_by<F, ROWS - 1>(rows, strip, tile, inputs, to);
}

}  // namespace
