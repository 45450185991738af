// Sixteen numbers in registers smaller than a vector of 64 bytes: in two of 32 (AVX2), or in four of 16 (SSE, NEON).
//
// There gcc keeps vectors of 64 bytes in memory, and takes them from it eight bytes at a time, or lane by lane. These
// have the same operators, but for `?:` (see `select`), and each is an instruction for each register.

#pragma once

#include <cstdint>

namespace {

#if defined(__AVX2__)
constexpr int64_t REGISTER_BYTES = 32;
#else
constexpr int64_t REGISTER_BYTES = 16;
#endif

template <class Number, int64_t BYTES = 64>
struct Halved;

// A register, or what fills several.
template <class Number, int64_t BYTES, bool IN_REGISTER>
struct Held {
    typedef Number Type __attribute__((vector_size(BYTES), aligned(4), may_alias));
};
template <class Number, int64_t BYTES>
struct Held<Number, BYTES, false> {
    using Type = Halved<Number, BYTES>;
};

template <class Number, int64_t BYTES>
struct Halved {
    static constexpr bool IN_REGISTERS = BYTES / 2 <= REGISTER_BYTES;  // or the halves are halved as well
    static constexpr int64_t LANES_OF_HALF = BYTES / 2 / sizeof(Number);
    using Half = typename Held<Number, BYTES / 2, IN_REGISTERS>::Type;
    using Mask = Halved<int32_t, BYTES>;
    template <class Narrow>
    using NarrowHalf [[gnu::vector_size(LANES_OF_HALF * sizeof(Narrow)), gnu::aligned(1), gnu::may_alias]] = Narrow;
    Half lower, upper;

    [[gnu::always_inline]] Halved() : lower{}, upper{} {}
    [[gnu::always_inline]] Halved(Number in_all_lanes) : lower(in_all_lanes - Half{}), upper(in_all_lanes - Half{}) {}
    [[gnu::always_inline]] Halved(Half lower, Half upper) : lower(lower), upper(upper) {}
    template <class Other>
    explicit Halved(Halved<Other, BYTES> bits) : lower((Half)bits.lower), upper((Half)bits.upper) {}
    Number operator[](int64_t lane) const { return lane < LANES_OF_HALF ? lower[lane] : upper[lane - LANES_OF_HALF]; }

    // The same numbers in another type.
    template <class Other>
    static Halved converted(Halved<Other, BYTES> numbers) {
        if constexpr (IN_REGISTERS)
            return {__builtin_convertvector(numbers.lower, Half), __builtin_convertvector(numbers.upper, Half)};
        else
            return {Half::converted(numbers.lower), Half::converted(numbers.upper)};
    }

    // The same, of numbers of fewer bytes, which lie side by side in memory.
    template <class Narrow>
    static Halved widened(const Narrow *from) {
        if constexpr (IN_REGISTERS) {
            const NarrowHalf<Narrow> *halves = reinterpret_cast<const NarrowHalf<Narrow> *>(from);
            return {__builtin_convertvector(halves[0], Half), __builtin_convertvector(halves[1], Half)};
        } else {
            return {Half::widened(from), Half::widened(from + LANES_OF_HALF)};
        }
    }
    template <class Narrow>
    void store_narrowed(Narrow *to) const {
        if constexpr (IN_REGISTERS) {
            NarrowHalf<Narrow> *halves = reinterpret_cast<NarrowHalf<Narrow> *>(to);
            halves[0] = __builtin_convertvector(lower, NarrowHalf<Narrow>);
            halves[1] = __builtin_convertvector(upper, NarrowHalf<Narrow>);
        } else {
            lower.store_narrowed(to);
            upper.store_narrowed(to + LANES_OF_HALF);
        }
    }

    friend Halved operator-(Halved a) { return {-a.lower, -a.upper}; }
    friend Halved operator+(Halved a, Halved b) { return {a.lower + b.lower, a.upper + b.upper}; }
    friend Halved operator-(Halved a, Halved b) { return {a.lower - b.lower, a.upper - b.upper}; }
    friend Halved operator*(Halved a, Halved b) { return {a.lower * b.lower, a.upper * b.upper}; }
    friend Halved operator/(Halved a, Halved b) { return {a.lower / b.lower, a.upper / b.upper}; }
    friend Halved operator&(Halved a, Halved b) { return {a.lower & b.lower, a.upper & b.upper}; }
    friend Halved operator|(Halved a, Halved b) { return {a.lower | b.lower, a.upper | b.upper}; }
    friend Halved operator<<(Halved a, Halved by) { return {a.lower << by.lower, a.upper << by.upper}; }
    friend Halved operator>>(Halved a, Halved by) { return {a.lower >> by.lower, a.upper >> by.upper}; }
    friend Mask operator<(Halved a, Halved b) { return {a.lower < b.lower, a.upper < b.upper}; }
    friend Mask operator>(Halved a, Halved b) { return {a.lower > b.lower, a.upper > b.upper}; }
    friend Mask operator>=(Halved a, Halved b) { return {a.lower >= b.lower, a.upper >= b.upper}; }
    friend Mask operator==(Halved a, Halved b) { return {a.lower == b.lower, a.upper == b.upper}; }
    friend Mask operator!=(Halved a, Halved b) { return {a.lower != b.lower, a.upper != b.upper}; }
    Halved &operator+=(Halved b) { return *this = *this + b; }
    Halved &operator-=(Halved b) { return *this = *this - b; }
    Halved &operator*=(Halved b) { return *this = *this * b; }
    Halved &operator|=(Halved b) { return *this = *this | b; }
};

template <class Function, class Number, int64_t BYTES, class... Vectors>
inline Halved<Number, BYTES> for_each_register(Function function, Halved<Number, BYTES> first, Vectors... others) {
    return {for_each_register(function, first.lower, others.lower...),
            for_each_register(function, first.upper, others.upper...)};
}

// In each lane one or the other: `a` where `mask` is -1.
template <int64_t BYTES, class Vector>
inline Vector select(Halved<int32_t, BYTES> mask, Vector a, Vector b) {
    return for_each_register([](auto a, auto b, auto mask) { return mask ? a : b; }, a, b, mask);
}

}  // namespace
