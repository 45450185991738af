// The products with the strips of one format: FORMATS has its bit, and no other.
//
// They are most of what a compiler has to do for a model, so each format has a compiler of its own, and all run at the
// same time.

#include "kernels.hpp"

#include "quantized.hpp"

constexpr int THIS_FORMAT = __builtin_ctzll(FORMATS);

// A wide tile times a strip next to one of another format, which is rare: as if there were two of it.
template <class F>
void multiply_one_of_two(const uint8_t *strip, uint8_t *tile, int64_t inputs, float (*to)[PANEL]) {
    alignas(64) float both[ROWS_OF_WIDE_TILE][PANEL];
    multiply<F, ROWS_OF_WIDE_TILE>({strip, strip}, Tile(tile, ROWS_OF_WIDE_TILE, inputs), inputs, both, Ahead<2>());
    for (int64_t row = 0; row < ROWS_OF_WIDE_TILE; ++row) memcpy(to[row], both[row], LANES * sizeof(float));
}

template <int NUMBER>
void Kernels<NUMBER>::multiply_strip(const uint8_t *strip, uint8_t *tile, int64_t rows, int64_t inputs,
                                     float (*to)[PANEL]) {
    with_format(NUMBER, [&](auto format) {
        if constexpr (are_unpacked<decltype(format)>)
            if (rows > ROWS_OF_BLOCK_TILE) return multiply_one_of_two<decltype(format)>(strip, tile, inputs, to);
        multiply_strip_by<decltype(format)>(rows, strip, Tile(tile, rows, inputs), inputs, to);
    });
}

template <int NUMBER>
void Kernels<NUMBER>::multiply_both(const uint8_t *const (&strips)[2], uint8_t *tile, int64_t inputs,
                                    float (*to)[PANEL], const uint8_t *const (&next)[2]) {
    with_format(NUMBER, [&](auto format) {
        if constexpr (has_wide_tiles<decltype(format)>)
            multiply<decltype(format), ROWS_OF_WIDE_TILE>(strips, Tile(tile, ROWS_OF_WIDE_TILE, inputs), inputs, to,
                                                          {next[0] - strips[0], next[1] - strips[1]});
    });
}

template <int NUMBER>
void Kernels<NUMBER>::unpack(const uint8_t *strip, int64_t inputs, uint8_t *to) {
    with_format(NUMBER, [&](auto format) {
        if constexpr (are_unpacked<decltype(format)>) unpack_strip<decltype(format)>(strip, inputs, to);
    });
}

template <int NUMBER>
void Kernels<NUMBER>::multiply_unpacked(const uint8_t *both, uint8_t *tile, int64_t rows, int64_t inputs,
                                        const uint8_t *next, int64_t bytes_per_block, float (*to)[PANEL]) {
    constexpr int ROWS = ROWS_OF_UNPACKED_TILE;  // or one fewer, since there are many rows
    with_format(NUMBER, [&](auto format) {
        if constexpr (are_unpacked<decltype(format)>) {
            using F = Unpacked<decltype(format)>;
            const Tile of_inputs(tile, rows, inputs);
            const Behind behind = {next, bytes_per_block};
            if (rows == ROWS)
                multiply_block_strips<F, ROWS, 2>({both, both + Strips<F>::size(inputs)}, of_inputs, inputs, to, {},
                                                  behind);
            else
                multiply_block_strips<F, ROWS - 1, 2>({both, both + Strips<F>::size(inputs)}, of_inputs, inputs, to, {},
                                                      behind);
        }
    });
}

template struct Kernels<THIS_FORMAT>;
