// The inputs of quantized products, as integers of eight bits.
//
// Each 32 inputs have a scale of their own, so an input that is much larger than the others makes only its own 32
// coarser. In the formats in "K", whose blocks have 256 weights, that scale is the block's divided by a power of two,
// so inputs are at most twice as coarse as with a scale of their own. (In llama.cpp all 256 have the same scale.) The
// sums over a block's groups are brought to one scale by shifting them, so they stay integers. Two sums lie in one
// number, so each is cut to sixteen bits.

#pragma once

#include "numbers.hpp"
#include "strips.hpp"

namespace {

#if defined(__AVX512VNNI__)
constexpr bool HAS_WIDE_TILES = true;  // of two strips
#else
constexpr bool HAS_WIDE_TILES = false;  // other instructions need the registers
#endif
// Of rows with scales for blocks, too, unless one product starts in a cycle: then loads are not the limit, and strips
// are faster one after the other.
constexpr bool HAS_WIDE_BLOCK_TILES = HAS_WIDE_TILES && !ONE_PRODUCT;
constexpr int64_t ROWS_OF_WIDE_TILE = 8, ROWS_OF_UNPACKED_TILE = 6;
// Of one strip: so many sums fit the registers. But of rows with scales for blocks, eight are better as a wide tile,
// where there is one.
#if defined(__AVX512F__)
constexpr int64_t ROWS_OF_TILE = 12, ROWS_OF_BLOCK_TILE = HAS_WIDE_BLOCK_TILES ? ROWS_OF_WIDE_TILE - 1 : 8;
#else
constexpr int64_t ROWS_OF_TILE = 4, ROWS_OF_BLOCK_TILE = 4;
#endif
constexpr int64_t MANY_ROWS = 24;  // from here on, unpacking is worth while

// A format in "K" that has been unpacked: each code is a byte, and so is each group's scale.
template <class F>
struct Unpacked : F {
    static constexpr int BITS = 8, SCALE_BITS = 8;
};
template <class F>
constexpr bool is_unpacked = false;
template <class F>
constexpr bool is_unpacked<Unpacked<F>> = true;

// Whether that is done with a format's codes, and whether wide tiles are multiplied with its strips.
template <class F>
constexpr bool are_unpacked = HAS_WIDE_BLOCK_TILES && F::HAS_GROUP_SCALES;
template <class F>
constexpr bool has_wide_tiles = F::HAS_GROUP_SCALES ? HAS_WIDE_BLOCK_TILES : HAS_WIDE_TILES;

// How tiles are multiplied: with one strip after the other, with two at a time, or with two that have been unpacked.
enum class Way { EACH_STRIP, BOTH_STRIPS, UNPACKED };

// How rows are divided into tiles of at most `most` rows. They are of about equal size, but where two strips at a time
// are multiplied as they are packed: there is a function for the largest size only, so all have it but the last. Only
// the layout depends on it, and no result.
struct Tiling {
    int64_t rows, most, tiles;
    Way way;
    Tiling(int64_t rows, int64_t most, Way way) : rows(rows), most(most), tiles((rows + most - 1) / most), way(way) {}
    int64_t first(int64_t tile) const { return way == Way::BOTH_STRIPS ? min(tile * most, rows) : tile * rows / tiles; }
    int64_t count(int64_t tile) const { return first(tile + 1) - first(tile); }
};

// The best for so many rows, whose scales are those of blocks or of 32 inputs.
inline Tiling tiling_for(int64_t rows, bool is_of_blocks, bool is_q8) {
    const int64_t most = is_of_blocks ? ROWS_OF_BLOCK_TILE : ROWS_OF_TILE;
    const bool is_wide = is_of_blocks ? HAS_WIDE_BLOCK_TILES : HAS_WIDE_TILES;
    // Codes of eight bits are so many bytes that the memory stays the limit for long.
    if (!is_wide || is_q8 || rows <= most) return Tiling(rows, most, Way::EACH_STRIP);
    if (is_of_blocks && rows >= MANY_ROWS) return Tiling(rows, ROWS_OF_UNPACKED_TILE, Way::UNPACKED);
    return Tiling(rows, ROWS_OF_WIDE_TILE, Way::BOTH_STRIPS);
}

// How sums over groups of 32 inputs get sixteen bits.
struct Shifts {
    int32_t *right, *left;  // [inputs / 32][count]: shifts into the lower or the upper sixteen bits
    int32_t *starts;        // [inputs / 32][count]: what the sums begin with
    float *block_scales;    // [inputs / 256][count], of sums that have been shifted

    Shifts(int32_t *at, int64_t groups)
        : right(at), left(right + groups), starts(left + groups),
          block_scales(reinterpret_cast<float *>(starts + groups)) {}
    int32_t *end(int64_t groups) const { return reinterpret_cast<int32_t *>(block_scales) + groups / 8; }

    void put(int64_t at, int32_t shift, int32_t start) const {
        right[at] = shift;
        left[at] = 16 - shift;
        starts[at] = start;
    }
};

// A tile of `count` rows: four codes in each number, and what goes with them.
//
// All sums are negative. Those of codes are for the formats' offsets, multiplied with what these have in common, so a
// row of Q4_0 begins with its sum as it is; weighted sums, with the scale, are for the formats' minimums.
//
// The formats in "K" read the codes and the second part. A matrix may have strips of both kinds.
struct Tile {
    static constexpr int32_t OFFSET_UNIT = 8, SUM_PARTS = 8;
    static constexpr int64_t ROOM = 3;  // bytes for each input: its code, and the rest in a whole number

    int32_t *codes;                 // [inputs / 4][count]
    float *scales, *weighted_sums;  // [inputs / 32][count]
    int32_t *sums;                  // [inputs / 32][count]

    int32_t *half_starts;        // [inputs / 16][count]: what sums over groups of 16 inputs begin with
    int32_t *pair_sums;          // [inputs / 64][count]: of 32 inputs each in the halves of a number, in eighths
    int32_t *half_pair_sums;     // [inputs / 32][count]: of 16 inputs each, for Q2_K
    Shifts shifts, wide_shifts;  // the latter of numbers of eight bits, if the model has any

    Tile(uint8_t *at, int64_t count, int64_t inputs) : Tile(at, inputs / GROUP_INPUTS * count) {}

private:
    Tile(uint8_t *at, int64_t groups)
        : codes(reinterpret_cast<int32_t *>(at)),
          scales(reinterpret_cast<float *>(codes + groups * GROUP_INPUTS / CODES)), weighted_sums(scales + groups),
          sums(reinterpret_cast<int32_t *>(weighted_sums + groups)), half_starts(sums + groups),
          pair_sums(half_starts + 2 * groups), half_pair_sums(pair_sums + groups / 2),
          shifts(half_pair_sums + groups, groups), wide_shifts(shifts.end(groups), groups) {}
};

// The largest magnitude, as the bits of a float: those that are no number are larger than all others.
inline int32_t largest_magnitude(Floats left, Floats right) {
    const Ints a = (Ints)left & 0x7fffffff, b = (Ints)right & 0x7fffffff;
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32(_mm512_max_epi32((__m512i)a, (__m512i)b));
#else
    const Ints most = select(a > b, a, b);
    int32_t largest = 0;
    for (int64_t i = 0; i < LANES; ++i) largest = most[i] > largest ? most[i] : largest;
    return largest;
#endif
}

// The sum of sixteen codes, and the sum of their magnitudes.
struct Sums {
    int32_t sum, magnitude;
};

// Sixteen inputs to the nearest integers, into `codes`.
inline Sums round_inputs(Floats inputs, float factor, int8_t *codes) {
#if defined(__AVX512F__)
    const Bytes bytes = (Bytes)_mm512_cvtepi32_epi8(_mm512_cvtps_epi32((__m512)(inputs * factor)));
    put(reinterpret_cast<uint8_t *>(codes), (UnsignedBytes)bytes);
    const __m128i moved = (__m128i)_mm_sad_epu8((__m128i)(bytes ^ -128), __m128i{});
    const __m128i sizes = (__m128i)_mm_sad_epu8((__m128i)(bytes < 0 ? -bytes : bytes), __m128i{});
    return {int32_t(moved[0] + moved[1] - LANES * 128), int32_t(sizes[0] + sizes[1])};
#else
    constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it leaves no place for a fraction
    const Ints rounded = to_ints((inputs * factor + ROUNDER) - ROUNDER);
    Sums of = {};
    for (int64_t i = 0; i < LANES; ++i) {
        codes[i] = int8_t(rounded[i]);
        of.sum += codes[i], of.magnitude += codes[i] < 0 ? -codes[i] : codes[i];
    }
    return of;
#endif
}

inline float as_float(int32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}
inline float power_of_two(int32_t exponent) { return as_float((127 + exponent) << 23); }

// 32 inputs of one row of a tile become codes of the scale `scale` / 2^halvings.
inline void quantize_group(const float *x, float scale, float factor, int32_t halvings, const Tile &tile, int64_t count,
                           int64_t group, int64_t row, Sums (&halves)[2]) {
    int8_t codes[GROUP_INPUTS];
    scale *= power_of_two(-halvings), factor *= power_of_two(halvings);
    halves[0] = round_inputs(load(x), factor, codes);
    halves[1] = round_inputs(load(x + LANES), factor, codes + LANES);
    const int32_t sum = halves[0].sum + halves[1].sum;
    const int64_t at = group * count + row;
    tile.scales[at] = scale;
    tile.sums[at] = -Tile::OFFSET_UNIT * sum;
    tile.weighted_sums[at] = -scale * sum;
    for (int64_t i = 0; i < VECTORS; ++i)
        memcpy(tile.codes + (group * VECTORS + i) * count + row, codes + i * CODES, CODES);
}

constexpr int64_t GROUPS_OF_BLOCK = 8;
constexpr int32_t MOST_HALVINGS = 8;

// How many bits are cut off the sums over a block's groups, so that what is left has sixteen: as few as the magnitudes
// of the inputs allow, which are often none. These are those of half a group, so a group of Q6_K has at most 32 times
// as much. One of Q5_K, of both halves, has less than 64 times as much, and one of numbers of eight bits, 256 times.
inline int32_t bits_to_cut(const Sums (&halves)[GROUPS_OF_BLOCK][2], const int32_t *halvings, int32_t times) {
    int32_t most = 0, bits = 0;
    for (int64_t i = 0; i < GROUPS_OF_BLOCK; ++i)
        most = max(most, max(halves[i][0].magnitude, halves[i][1].magnitude) >> halvings[i]);
    while ((most + 1) * times > 1 << (15 + bits)) ++bits;
    return bits;
}

// What a sum starts with to be rounded when it is shifted: up where it is in the middle, or down in every other group,
// or rounding would shift the outputs.
inline int32_t rounding(int32_t shift, bool is_other) { return max((1 << shift >> 1) - is_other, 0); }

// What formats in "K" need of a group besides its codes.
inline void put_shifts(const Tile &tile, int64_t count, int64_t group, int64_t row, int32_t shift,
                       const Sums (&halves)[2]) {
    const int64_t at = group * count + row;
    tile.shifts.put(at, shift, rounding(shift, group % 2));
    for (int64_t half = 0; half < 2; ++half)
        tile.half_starts[at + (group + half) * count] = rounding(shift, half) - Q6_K::OFFSET * halves[half].sum;
    const auto put_sum = [&](int32_t *pair, int64_t place, int32_t sum) {
        const int16_t rounded = int16_t((rounding(shift, false) - Tile::SUM_PARTS * sum) >> shift);
        memcpy(reinterpret_cast<int16_t *>(pair) + place, &rounded, sizeof rounded);
    };
    put_sum(tile.pair_sums + group / 2 * count + row, group % 2, halves[0].sum + halves[1].sum);
    for (int64_t half = 0; Q2_K::IS_PRESENT && half < 2; ++half)
        put_sum(tile.half_pair_sums + at, half, halves[half].sum);
}

// What numbers of eight bits need of it.
inline void put_wide_shifts(const Tile &tile, int64_t count, int64_t group, int64_t row, int32_t shift,
                            const Sums (&halves)[2]) {
    const int32_t offset = IQ4_XS::OFFSET * (halves[0].sum + halves[1].sum);
    tile.wide_shifts.put(group * count + row, shift, rounding(shift, group % 2) - offset);
}

// 256 inputs of one row of a tile. `x` is where they are.
inline void quantize_block(const float *x, const Tile &tile, int64_t count, int64_t block, int64_t row) {
    int32_t magnitudes[GROUPS_OF_BLOCK], halvings[GROUPS_OF_BLOCK], most = 0;
    for (int64_t i = 0; i < GROUPS_OF_BLOCK; ++i) {
        magnitudes[i] = largest_magnitude(load(x + i * GROUP_INPUTS), load(x + i * GROUP_INPUTS + LANES));
        most = max(most, magnitudes[i]);
    }
    const float largest = as_float(most), scale = largest / 127, factor = largest > 0 ? 127 / largest : 0;
    Sums halves[GROUPS_OF_BLOCK][2];
    for (int64_t i = 0; i < GROUPS_OF_BLOCK; ++i) {
        // So often can all of them be doubled, and none is larger than the block's largest.
        halvings[i] = min((most - magnitudes[i]) >> 23, MOST_HALVINGS);
        quantize_group(x + i * GROUP_INPUTS, scale, factor, halvings[i], tile, count, block * GROUPS_OF_BLOCK + i, row,
                       halves[i]);
    }
    const int32_t cut = bits_to_cut(halves, halvings, Q5_K::IS_PRESENT ? 64 : 32);
    for (int64_t i = 0; i < GROUPS_OF_BLOCK; ++i)
        put_shifts(tile, count, block * GROUPS_OF_BLOCK + i, row, halvings[i] + cut, halves[i]);
    tile.shifts.block_scales[block * count + row] = scale * float(1 << cut);
    if (!IQ4_XS::IS_PRESENT) return;
    const int32_t wide_cut = bits_to_cut(halves, halvings, 256);
    for (int64_t i = 0; i < GROUPS_OF_BLOCK; ++i)
        put_wide_shifts(tile, count, block * GROUPS_OF_BLOCK + i, row, halvings[i] + wide_cut, halves[i]);
    tile.wide_shifts.block_scales[block * count + row] = scale * float(1 << wide_cut);
}

// 32 or 256 inputs, which share a scale.
inline void quantize_inputs(const float *x, int64_t inputs, const Tile &tile, int64_t count, int64_t first,
                            int64_t row) {
    if (inputs > GROUP_INPUTS) return quantize_block(x, tile, count, first / inputs, row);
    const float largest = as_float(largest_magnitude(load(x), load(x + LANES)));
    Sums halves[2];
    quantize_group(x, largest / 127, largest > 0 ? 127 / largest : 0, 0, tile, count, first / inputs, row, halves);
}

}  // namespace
