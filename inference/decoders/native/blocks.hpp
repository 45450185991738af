// The blocks of GGUF files: what a row of a quantized matrix consists of, and what each number in it means.
//
// A block holds SIZE inputs' weights as codes of BITS bits. Every GROUP_SIZE of them shares a scale, and in some
// formats a minimum: weight = scale * (code - OFFSET) - minimum. The formats in "K" put the scales of 256 weights
// together: eight or sixteen small integers, each to be multiplied with one scale of the block. In some a code is
// a place in a table, whose numbers are multiplied instead.
//
// Defined by the compiler's command line: FORMATS, the formats that the model has, a bit for each of GGML's numbers.

#pragma once

#include "numbers.hpp"

namespace {

// An unpacked block: one code in each byte. (Aligned, since gcc 12 assumes that it is.)
struct alignas(64) Opened {
    uint8_t codes[256];
    uint16_t scale, minimum;                                 // float16; of the block
    uint8_t group_scales[16] = {}, group_minimums[16] = {};  // in the formats in "K"
};

template <int NUMBER_, int BYTES_, int SIZE_, int BITS_, int GROUP_SIZE_, int OFFSET_BITS_, bool HAS_MINIMUM_>
struct Format {
    static constexpr int NUMBER = NUMBER_, BYTES = BYTES_, SIZE = SIZE_, BITS = BITS_, GROUP_SIZE = GROUP_SIZE_;
    static constexpr int OFFSET_BITS = OFFSET_BITS_;  // the offset is a power of two; none: 0
    static constexpr int OFFSET = OFFSET_BITS ? 1 << OFFSET_BITS : 0, GROUPS = SIZE / GROUP_SIZE;
    static constexpr bool HAS_MINIMUM = HAS_MINIMUM_, HAS_GROUP_SCALES = SIZE > 32;
    static constexpr int GROUP_SCALES = !HAS_GROUP_SCALES ? 0 : HAS_MINIMUM ? 2 * GROUPS : GROUPS;  // and minimums
    static constexpr int SCALE_BITS = !HAS_MINIMUM ? 8 : GROUP_SCALES > 16 ? 4 : 6;                 // of each of them
    static constexpr bool IS_PRESENT = int64_t(FORMATS) >> NUMBER & 1;
    static constexpr bool HAS_TABLE = false;
    static constexpr int MULTIPLIED_BITS = BITS;
    static constexpr float UNIT = 1;  // what 1 of the numbers that are multiplied means, times the scale
};

// The numbers that codes of up to four bits stand for, with an offset, so that they have no sign. They are there four
// times, as a vector has four parts in which a byte can be looked up.
struct Table {
    alignas(64) uint8_t numbers[64] = {};
    constexpr Table(const int8_t (&of_codes)[16], int offset) {
        for (int i = 0; i < 64; ++i) numbers[i] = uint8_t(of_codes[i % 16] + offset);
    }
};

inline uint16_t half_at(const uint8_t *from) { return uint16_t(from[0] | from[1] << 8); }

// Load sixteen bytes at once. Byte by byte, the compiler would have to assume that codes and blocks alias.
inline UnsignedBytes sixteen(const uint8_t *from) { return *reinterpret_cast<const UnsignedBytes *>(from); }
inline void put(uint8_t *to, UnsignedBytes bytes) { *reinterpret_cast<UnsignedBytes *>(to) = bytes; }

// 32 codes of four bits: the first sixteen are the lower halves of the bytes, the others the upper ones.
inline void open_nibbles(const uint8_t *from, uint8_t *codes) {
    const UnsignedBytes both = sixteen(from);
    put(codes, both & 15);
    put(codes + 16, both >> 4);
}
inline void add_fifth_bits(const uint8_t *from, uint8_t *codes) {
    const UnsignedBytes BIT = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    for (int i = 0; i < 32; i += 16) {
        const uint8_t first = from[i / 8], second = from[i / 8 + 1];
        const UnsignedBytes bits = {first,  first,  first,  first,  first,  first,  first,  first,
                                    second, second, second, second, second, second, second, second};
        put(codes + i, sixteen(codes + i) | ((UnsignedBytes)((bits & BIT) != 0) & 16));
    }
}

struct Q4_0 : Format<2, 18, 32, 4, 32, 3, false> {
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from);
        open_nibbles(from + 2, to.codes);
    }
};

struct Q4_1 : Format<3, 20, 32, 4, 32, 0, true> {  // its minimum is added, not subtracted
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from);
        to.minimum = half_at(from + 2) ^ 0x8000;
        open_nibbles(from + 4, to.codes);
    }
};

struct Q5_0 : Format<6, 22, 32, 5, 32, 4, false> {
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from);
        open_nibbles(from + 6, to.codes);
        add_fifth_bits(from + 2, to.codes);
    }
};

struct Q5_1 : Format<7, 24, 32, 5, 32, 0, true> {
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from);
        to.minimum = half_at(from + 2) ^ 0x8000;
        open_nibbles(from + 8, to.codes);
        add_fifth_bits(from + 4, to.codes);
    }
};

struct Q8_0 : Format<8, 34, 32, 8, 32, 7, false> {
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from);
        for (int i = 0; i < 32; ++i) to.codes[i] = from[i + 2] ^ 0x80;  // signed; with the offset, unsigned
    }
};

struct IQ4_NL : Format<20, 18, 32, 4, 32, 7, false> {
    static constexpr bool HAS_TABLE = true;
    static constexpr int MULTIPLIED_BITS = 8;
    static constexpr Table TABLE{{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}, OFFSET};
    static void open(const uint8_t *from, Opened &to) { Q4_0::open(from, to); }
};

// Floats of four bits, E2M1, twice as large as they are; and half of their scale, which is a power of two, E8M0. (Open
// Compute Project 2023, "OCP Microscaling Formats (MX) Specification".)
struct MXFP4 : Format<39, 17, 32, 4, 32, 4, false> {
    static constexpr bool HAS_TABLE = true;
    static constexpr int MULTIPLIED_BITS = 5;
    static constexpr Table TABLE{{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}, OFFSET};
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_power_of_two(from[0] - 128);
        open_nibbles(from + 1, to.codes);
    }
    // 2^exponent as float16: with the smallest, it has no leading one.
    static uint16_t half_power_of_two(int exponent) {
        if (exponent > 15) return 31 << 10;  // infinite
        return exponent >= -14 ? (exponent + 15) << 10 : exponent >= -24 ? 1 << (exponent + 24) : 0;
    }
};

// Eight scales and eight minimums of six bits in twelve bytes.
inline void open_group_scales(const uint8_t *from, Opened &to) {
    for (int i = 0; i < 4; ++i) {
        to.group_scales[i] = from[i] & 63;
        to.group_minimums[i] = from[i + 4] & 63;
        to.group_scales[i + 4] = (from[i + 8] & 15) | (from[i] >> 2 & 48);
        to.group_minimums[i + 4] = from[i + 8] >> 4 | (from[i + 4] >> 2 & 48);
    }
}

// 64 codes of four bits: the lower halves of 32 bytes, then their upper halves.
inline void open_wide_nibbles(const uint8_t *from, uint8_t *codes) {
    for (int i = 0; i < 32; i += 16) {
        put(codes + i, sixteen(from + i) & 15);
        put(codes + i + 32, sixteen(from + i) >> 4);
    }
}

// Its codes of two bits are multiplied as numbers of six, as those of Q3_K are.
struct Q2_K : Format<10, 84, 256, 2, 16, 5, true> {
    static constexpr bool HAS_TABLE = true;
    static constexpr int MULTIPLIED_BITS = 6;
    static constexpr float UNIT = 0.125f;
    static constexpr Table TABLE{{0, 8, 16, 24}, OFFSET};
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from + 80);
        to.minimum = half_at(from + 82);
        for (int i = 0; i < 256; i += 16) {
            to.group_scales[i / 16] = from[i / 16] & 15;
            to.group_minimums[i / 16] = from[i / 16] >> 4;
            put(to.codes + i, sixteen(from + 16 + i / 128 * 32 + i % 32) >> uint8_t(i / 32 % 4 * 2) & 3);
        }
    }
};

// Its codes of three bits are multiplied as numbers of six, with the offset of Q6_K: sums are cut to sixteen bits, of
// which smaller numbers would fill fewer.
struct Q3_K : Format<11, 110, 256, 3, 16, 5, false> {
    static constexpr bool HAS_TABLE = true;
    static constexpr int MULTIPLIED_BITS = 6;
    static constexpr float UNIT = 0.125f;
    static constexpr Table TABLE{{-32, -24, -16, -8, 0, 8, 16, 24}, OFFSET};
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from + 108);
        for (int i = 0; i < 16; ++i) {  // of six bits, the lower four and the upper two apart
            const int lower = from[96 + i % 8] >> (i / 8 * 4) & 15, upper = from[104 + i % 4] >> (i / 4 * 2) & 3;
            to.group_scales[i] = uint8_t((lower | upper << 4) - 32);
        }
        for (int i = 0; i < 256; i += 16) {
            const UnsignedBytes lower = sixteen(from + 32 + i / 128 * 32 + i % 32) >> uint8_t(i / 32 % 4 * 2) & 3;
            const UnsignedBytes upper = sixteen(from + i % 32) >> uint8_t(i / 32) & 1;
            put(to.codes + i, lower | upper << 2);
        }
    }
};

// Eight scales of six bits, of which the upper two are apart, and codes of IQ4_NL.
struct IQ4_XS : Format<23, 136, 256, 4, 32, 7, false> {
    static constexpr bool HAS_TABLE = true;
    static constexpr int MULTIPLIED_BITS = 8;
    static constexpr Table TABLE = IQ4_NL::TABLE;
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from);
        for (int i = 0; i < 8; ++i) {
            const int lower = from[4 + i / 2] >> (i % 2 * 4) & 15, upper = half_at(from + 2) >> 2 * i & 3;
            to.group_scales[i] = uint8_t((lower | upper << 4) - 32);
            open_nibbles(from + 8 + 16 * i, to.codes + 32 * i);
        }
    }
};

struct Q4_K : Format<12, 144, 256, 4, 32, 0, true> {
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from);
        to.minimum = half_at(from + 2);
        open_group_scales(from + 4, to);
        for (int i = 0; i < 4; ++i) open_wide_nibbles(from + 16 + 32 * i, to.codes + 64 * i);
    }
};

struct Q5_K : Format<13, 176, 256, 5, 32, 0, true> {
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from);
        to.minimum = half_at(from + 2);
        open_group_scales(from + 4, to);
        for (int i = 0; i < 4; ++i) open_wide_nibbles(from + 48 + 32 * i, to.codes + 64 * i);
        for (int i = 0; i < 256; i += 16) {
            const UnsignedBytes fifth = sixteen(from + 16 + i % 32) >> uint8_t(i / 32) & 1;
            put(to.codes + i, sixteen(to.codes + i) | fifth << 4);
        }
    }
};

struct Q6_K : Format<14, 210, 256, 6, 16, 5, false> {
    static void open(const uint8_t *from, Opened &to) {
        to.scale = half_at(from + 208);
        memcpy(to.group_scales, from + 192, 16);
        for (int half = 0; half < 2; ++half)
            for (int i = 0; i < 128; i += 16) {
                const UnsignedBytes nibbles = sixteen(from + 64 * half + i % 64) >> uint8_t(i / 64 * 4) & 15;
                const UnsignedBytes upper = sixteen(from + 128 + 32 * half + i % 32) >> uint8_t(i / 32 * 2) & 3;
                put(to.codes + 128 * half + i, nibbles | upper << 4);
            }
    }
};

// Call `use` with the format that has this number; one that the model does not have costs nothing.
template <class Use>
void with_format(int64_t number, Use use) {
    const auto attempt = [&](auto format) {
        if constexpr (decltype(format)::IS_PRESENT)
            if (number == format.NUMBER) use(format);
    };
    attempt(Q4_0());
    attempt(Q4_1());
    attempt(Q5_0());
    attempt(Q5_1());
    attempt(Q8_0());
    attempt(IQ4_NL());
    attempt(MXFP4());
    attempt(IQ4_XS());
    attempt(Q2_K());
    attempt(Q3_K());
    attempt(Q4_K());
    attempt(Q5_K());
    attempt(Q6_K());
}

// The scale and the minimum of a block's group: products of at most 18 bits, so exact.
template <class F>
float group_scale(const Opened &block, int group) {
    const float scale = half_to_float(block.scale) * F::UNIT;
    if (!F::HAS_GROUP_SCALES) return scale;
    return scale * (F::HAS_MINIMUM ? float(block.group_scales[group]) : float(int8_t(block.group_scales[group])));
}
template <class F>
float group_minimum(const Opened &block, int group) {
    if (!F::HAS_MINIMUM) return 0;
    return half_to_float(block.minimum) * (F::HAS_GROUP_SCALES ? block.group_minimums[group] : 1);
}

// What a code is multiplied as.
template <class F>
int number_of(uint8_t code) {
    if constexpr (F::HAS_TABLE)
        return F::TABLE.numbers[code] - F::OFFSET;
    else
        return code - F::OFFSET;
}

// A row's weights as floats.
template <class F>
void read_row(const uint8_t *from, int64_t inputs, float *to) {
    for (int64_t first = 0; first < inputs; first += F::SIZE, from += F::BYTES) {
        Opened block;
        F::open(from, block);
        for (int group = 0; group < F::GROUPS; ++group) {
            const float scale = group_scale<F>(block, group), minimum = group_minimum<F>(block, group);
            for (int i = group * F::GROUP_SIZE; i < (group + 1) * F::GROUP_SIZE; ++i) {
                const float product = scale * float(number_of<F>(block.codes[i]));  // exact: at most 24 bits
                to[first + i] = F::HAS_MINIMUM ? product - minimum : product;
            }
        }
    }
}

}  // namespace
