// The products with the strips of one format, which are compiled apart from the rest: see kernels.cpp.

#pragma once

#include <stdint.h>

// NUMBER is GGML's of the format. A tile is given by where it begins and how many rows it has (see inputs.hpp); `to`
// has 32 floats for each of them, of which a strip fills sixteen.
template <int NUMBER>
struct [[gnu::visibility("hidden")]] Kernels {
    static void multiply_strip(const uint8_t *strip, uint8_t *tile, int64_t rows, int64_t inputs, float (*to)[32]);

    // Two strips at a time; the tile has as many rows as Tiling says for that. Meanwhile what lies at the same places
    // of `next` is asked for.
    static void multiply_both(const uint8_t *const (&strips)[2], uint8_t *tile, int64_t inputs, float (*to)[32],
                              const uint8_t *const (&next)[2]);

    // For many rows: a strip with each code as a byte, and two of these at a time, which lie one behind the other. What
    // will be read next begins at `next`; so many bytes of it are asked for with each block.
    static void unpack(const uint8_t *strip, int64_t inputs, uint8_t *to);
    static void multiply_unpacked(const uint8_t *both, uint8_t *tile, int64_t rows, int64_t inputs, const uint8_t *next,
                                  int64_t bytes_per_block, float (*to)[32]);
};
