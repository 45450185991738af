// How a quantized matrix lies in memory.
//
// A strip is sixteen outputs of a matrix, one in each lane of a vector. Its blocks are laid out once, at the start, in
// the order in which they are read: for every one or two blocks their scales, which fill whole cache lines, then their
// codes in the order in which they are multiplied. Scales and codes have as many bits each as in the file. So a strip
// is one stream of memory, from front to back.

#pragma once

#include "blocks.hpp"
#include "numbers.hpp"

namespace {

constexpr int64_t GROUP_INPUTS = 32, CODES = 4;    // inputs that share a scale; codes that lie side by side in a lane
constexpr int64_t VECTORS = GROUP_INPUTS / CODES;  // that hold the codes of 32 inputs, once each has a byte

// The scales of groups, and their minimums, come in fours, one for each byte of a lane. As numbers of sixteen bits, the
// lower halves are those of a pair of groups, and the upper halves those of the next pair. If they have fewer bits, the
// last ones lie in the upper bits of the others, as with codes.
constexpr int byte_of_group(int64_t group) { return group % 2 * 2 + group / 2 % 2; }

// The bits of four codes from BIT on, into the upper bits of `fours`, where `upper_bits` finds them.
template <int BITS, int PLACE, int BIT>
void put_upper_bits(uint32_t *fours, uint32_t codes) {
    constexpr int UPPER = 8 - BITS, FIRST = BITS + PLACE % UPPER, COUNT = min(8 - FIRST, BITS - BIT);
    constexpr uint32_t MASK = ((1u << COUNT) - 1) * 0x01010101u;
    fours[PLACE / UPPER] |= (codes >> BIT & MASK) << FIRST;
    if constexpr (BIT + COUNT < BITS) put_upper_bits<BITS, PLACE + COUNT, BIT + COUNT>(fours, codes);
}

template <class F>
struct Strips {
    static constexpr int64_t OF_WHOLE_BYTES = LANES * (F::HAS_MINIMUM ? 4 : 2);  // a block's own scale and minimum
    static constexpr int64_t SCALE_BYTES = OF_WHOLE_BYTES + LANES * F::GROUP_SCALES * F::SCALE_BITS / 8;
    static constexpr int64_t CODE_BYTES = LANES * GROUP_INPUTS * F::BITS / 8;  // of 32 inputs
    static constexpr int64_t PARTS = F::SIZE / GROUP_INPUTS;                   // of a block
    static constexpr int64_t BLOCK_BYTES = SCALE_BYTES + PARTS * CODE_BYTES;
    static constexpr int64_t TOGETHER = SCALE_BYTES % 64 ? 2 : 1;  // blocks whose scales come before their codes
    static constexpr int64_t BYTES_TOGETHER = TOGETHER * BLOCK_BYTES;

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
        if constexpr (F::HAS_GROUP_SCALES) pack_group_scales(block, lane, to);
    }

    static void pack_group_scales(const Opened &block, int64_t lane, uint8_t *to) {
        uint8_t bytes[F::GROUP_SCALES];
        for (int group = 0; group < F::GROUPS; ++group) {
            uint8_t *at = bytes + group / 4 * 4 + byte_of_group(group);
            at[0] = block.group_scales[group];
            if (F::HAS_MINIMUM) at[F::GROUPS] = block.group_minimums[group];
        }
        uint32_t fours[F::GROUP_SCALES / 4];
        memcpy(fours, bytes, sizeof fours);
        constexpr int KEPT = F::GROUP_SCALES / 4 * F::SCALE_BITS / 8;
        put_upper_vectors<F::SCALE_BITS, KEPT, F::GROUP_SCALES / 4>(fours);
        for (int i = 0; i < KEPT; ++i) memcpy(to + i * 64 + lane * 4, fours + i, 4);
    }

    // 32 codes of one lane: eight times four, kept in BITS vectors. The lower bits of each byte are one code; what is
    // left above them holds the bits of the other codes, in order.
    static void pack_codes(const uint8_t *codes, int64_t lane, uint8_t *to) {
        uint32_t fours[VECTORS];
        memcpy(fours, codes, sizeof fours);
        put_upper_vectors<F::BITS, F::BITS, VECTORS>(fours);
        for (int i = 0; i < F::BITS; ++i) memcpy(to + i * 64 + lane * CODES, fours + i, CODES);
    }

    // All but the first KEPT of COUNT times four numbers, into the upper bits of these.
    template <int BITS, int KEPT, int COUNT, int VECTOR = KEPT>
    static void put_upper_vectors(uint32_t *fours) {
        if constexpr (VECTOR < COUNT) {
            put_upper_bits<BITS, (VECTOR - KEPT) * BITS, 0>(fours, fours[VECTOR]);
            put_upper_vectors<BITS, KEPT, COUNT, VECTOR + 1>(fours);
        }
    }
};

inline Bits load_bits(const uint8_t *from) { return *reinterpret_cast<const Bits *>(from); }

// The bits of codes from BIT on, which lie in the upper bits of one vector or more, from place PLACE on.
template <int BITS, int PLACE, int BIT>
inline Bits upper_bits(const uint8_t *codes) {
    constexpr int UPPER = 8 - BITS, FIRST = BITS + PLACE % UPPER, COUNT = min(8 - FIRST, BITS - BIT);
    constexpr uint32_t MASK = ((1u << (BIT + COUNT)) - (1u << BIT)) * 0x01010101u;
    const Bits found = load_bits(codes + PLACE / UPPER * 64) >> (FIRST - BIT) & MASK;
    if constexpr (BIT + COUNT < BITS)
        return found | upper_bits<BITS, PLACE + COUNT, BIT + COUNT>(codes);
    else
        return found;
}

// What a table has for the code in each byte.
#if defined(__AVX512BW__)
inline Bits look_up(const Table &table, Bits codes) {
    return (Bits)_mm512_shuffle_epi8((__m512i)load_bits(table.numbers), (__m512i)codes);
}
#else
template <class Register>
inline Register looked_up(const Table &table, Register codes) {
    const Register numbers = *reinterpret_cast<const Register *>(table.numbers);
#if HALVED && defined(__AVX2__)
    return (Register)_mm256_shuffle_epi8((__m256i)numbers, (__m256i)codes);
#elif HALVED && defined(__SSSE3__)
    return (Register)_mm_shuffle_epi8((__m128i)numbers, (__m128i)codes);
#elif defined(__aarch64__)
    return (Register)vqtbl1q_u8((uint8x16_t)numbers, (uint8x16_t)codes);
#else
    uint8_t bytes[sizeof codes];
    memcpy(bytes, &codes, sizeof codes);
    for (uint8_t &byte : bytes) byte = table.numbers[byte];
    return *reinterpret_cast<const Register *>(bytes);
#endif
}
inline Bits look_up(const Table &table, Bits codes) {
    return for_each_register([&](auto codes) { return looked_up(table, codes); }, codes);
}
#endif

// Vector VECTOR of the eight: four codes in each lane.
template <class F, int VECTOR>
inline Bits packed_at(const uint8_t *codes) {
    if constexpr (VECTOR < F::BITS)
        return load_bits(codes + VECTOR * 64) & ((1u << F::BITS) - 1) * 0x01010101u;
    else
        return upper_bits<F::BITS, (VECTOR - F::BITS) * F::BITS, 0>(codes);
}

// The same as they are multiplied.
template <class F, int VECTOR>
inline Bits codes_at(const uint8_t *codes) {
    if constexpr (F::HAS_TABLE)
        return look_up(F::TABLE, packed_at<F, VECTOR>(codes));
    else
        return packed_at<F, VECTOR>(codes);
}

// The scales of a block and of its groups, a lane for each output.
template <class F>
struct Scales {
    const uint8_t *from;
    Floats scale, minimum;

    explicit Scales(const uint8_t *from) : from(from), scale(load_halves(from) * F::UNIT), minimum() {
        if (F::HAS_MINIMUM) minimum = load_halves(from + 2 * LANES);
    }
    Floats of_group(int64_t group) const { return F::HAS_GROUP_SCALES ? scale * one(group) : scale; }
    Floats minimum_of_group(int64_t group) const {
        return F::HAS_GROUP_SCALES ? minimum * one(F::GROUPS + group) : minimum;
    }
    // The factors of two groups, in the halves of each lane.
    Ints of_pair(int64_t pair) const { return two(pair); }
    Ints minimums_of_pair(int64_t pair) const { return two(F::GROUPS / 2 + pair); }

    // Four groups' scales in each lane, or, after those of all groups, their minimums.
    Bits four(int64_t index) const {
        if constexpr (F::SCALE_BITS == 4)
            return load_bits(fours() + index % 4 * 64) >> uint32_t(index / 4 * 4) & 0x0f0f0f0fu;
        else if constexpr (F::SCALE_BITS == 6)
            return index < 3 ? load_bits(fours() + index * 64) & 0x3f3f3f3fu : upper_bits<6, 0, 0>(fours());
        else
            return load_bits(fours() + index * 64);
    }

private:
    const uint8_t *fours() const { return from + Strips<F>::OF_WHOLE_BYTES; }
    Floats one(int64_t group) const {
        return to_floats((Ints)four(group / 4) << (24 - 8 * byte_of_group(group)) >> 24);
    }
    Ints two(int64_t pair) const {
        if (F::SCALE_BITS == 4) {
            const UnsignedShorts halves = (UnsignedShorts)load_bits(fours() + pair / 2 % 4 * 64);
            return (Ints)(halves << uint16_t(12 - pair / 8 * 4 - pair % 2 * 8) >> 12);
        }
        if (F::SCALE_BITS == 6 && pair / 2 < 3) {
            const UnsignedShorts halves = (UnsignedShorts)load_bits(fours() + pair / 2 * 64);
            return (Ints)(pair % 2 ? halves << 2 >> 10 : halves << 10 >> 10);
        }
        const Shorts halves = (Shorts)four(pair / 2);
        return (Ints)(pair % 2 ? halves >> 8 : halves << 8 >> 8);
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
                store(to, to_floats(code) * scales.of_group(group) - scales.minimum_of_group(group));
            }
        }
    }
}

}  // namespace
