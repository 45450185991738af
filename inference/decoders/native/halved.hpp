// Sixteen numbers in two registers of 32 bytes: what a vector of 64 bytes is elsewhere.
//
// On processors with AVX2 and without AVX-512 gcc keeps vectors of 64 bytes in memory, and takes them from there eight
// bytes at a time, or lane by lane. These have the same operators, but for `?:` (see `select`), and each is two
// instructions.

#pragma once

#include <cstdint>

namespace {

template <class Number>
struct Halved {
    typedef Number Half __attribute__((vector_size(32), aligned(4), may_alias));
    Half lower, upper;

    Halved() : lower{}, upper{} {}
    Halved(Number in_all_lanes) : lower(in_all_lanes - Half{}), upper(in_all_lanes - Half{}) {}
    Halved(Half lower, Half upper) : lower(lower), upper(upper) {}
    template <class Other>
    explicit Halved(Halved<Other> bits) : lower((Half)bits.lower), upper((Half)bits.upper) {}
    Number operator[](int64_t lane) const { return lane < 8 ? lower[lane] : upper[lane - 8]; }

    friend Halved operator-(Halved a) { return {-a.lower, -a.upper}; }
    friend Halved operator+(Halved a, Halved b) { return {a.lower + b.lower, a.upper + b.upper}; }
    friend Halved operator-(Halved a, Halved b) { return {a.lower - b.lower, a.upper - b.upper}; }
    friend Halved operator*(Halved a, Halved b) { return {a.lower * b.lower, a.upper * b.upper}; }
    friend Halved operator/(Halved a, Halved b) { return {a.lower / b.lower, a.upper / b.upper}; }
    friend Halved operator&(Halved a, Halved b) { return {a.lower & b.lower, a.upper & b.upper}; }
    friend Halved operator|(Halved a, Halved b) { return {a.lower | b.lower, a.upper | b.upper}; }
    friend Halved operator<<(Halved a, Halved by) { return {a.lower << by.lower, a.upper << by.upper}; }
    friend Halved operator>>(Halved a, Halved by) { return {a.lower >> by.lower, a.upper >> by.upper}; }
    friend Halved<int32_t> operator<(Halved a, Halved b) { return {a.lower < b.lower, a.upper < b.upper}; }
    friend Halved<int32_t> operator>(Halved a, Halved b) { return {a.lower > b.lower, a.upper > b.upper}; }
    friend Halved<int32_t> operator>=(Halved a, Halved b) { return {a.lower >= b.lower, a.upper >= b.upper}; }
    friend Halved<int32_t> operator==(Halved a, Halved b) { return {a.lower == b.lower, a.upper == b.upper}; }
    friend Halved<int32_t> operator!=(Halved a, Halved b) { return {a.lower != b.lower, a.upper != b.upper}; }
    Halved &operator+=(Halved b) { return *this = *this + b; }
    Halved &operator-=(Halved b) { return *this = *this - b; }
    Halved &operator*=(Halved b) { return *this = *this * b; }
    Halved &operator|=(Halved b) { return *this = *this | b; }
};

// In each lane one or the other: `a` where `mask` is -1.
template <class Vector>
inline Vector select(Halved<int32_t> mask, Vector a, Vector b) {
    return {mask.lower ? a.lower : b.lower, mask.upper ? a.upper : b.upper};
}

// The same numbers in vectors of another type, whose halves are each converted.
template <class To, class From>
inline Halved<To> converted(From lower, From upper) {
    using Half = typename Halved<To>::Half;
    return {__builtin_convertvector(lower, Half), __builtin_convertvector(upper, Half)};
}

}  // namespace
