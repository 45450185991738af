// Rows times a matrix, by the best that the processor has for it: tiles, products of bfloat16 pairs, or plain vectors.

#pragma once

#include "numbers.hpp"
#include "structures.hpp"
#if TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t PANEL = 2 * LANES, BLOCK = 32;  // outputs, and rows, that are computed together
constexpr int64_t PAGE = 4096;  // bytes: by itself, a processor asks for memory ahead to the end of a page at most

// ROWS rows of x times one panel. The panel is read once, from front to back, as Weight or as it is Stored.
template <int ROWS, class Number>
void multiply_rows(const Number *panel, const Weight *x, int64_t inputs, float (*sums)[PANEL]) {
    Floats left[ROWS] = {}, right[ROWS] = {};
    for (int64_t i = 0; i < inputs; i += PAIR, panel += PANEL * PAIR) {
        // Not in a function of its own: gcc 12 would then keep the sums in memory.
        const char *ahead = reinterpret_cast<const char *>(panel) + 2 * PAGE;
        __builtin_prefetch(ahead);
        __builtin_prefetch(ahead + PANEL * PAIR * sizeof(Number) / 2);
#if PAIR_PRODUCTS
        const __m512bh a = load_pairs(panel), b = load_pairs(panel + PANEL);
        for (int row = 0; row < ROWS; ++row) {
            int32_t both;
            memcpy(&both, x + row * inputs + i, sizeof both);
            const __m512bh pair = (__m512bh)_mm512_set1_epi32(both);
            left[row] = (Floats)_mm512_dpbf16_ps((__m512)left[row], a, pair);
            right[row] = (Floats)_mm512_dpbf16_ps((__m512)right[row], b, pair);
        }
#elif BF16
        const Pairs a = load_pairs(panel), b = load_pairs(panel + PANEL);
        for (int row = 0; row < ROWS; ++row) {
            const float x0 = to_float(x[row * inputs + i]), x1 = to_float(x[row * inputs + i + 1]);
            left[row] += x0 * a.first + x1 * a.second;
            right[row] += x0 * b.first + x1 * b.second;
        }
#else
        const Floats a = load(panel), b = load(panel + LANES);
        for (int row = 0; row < ROWS; ++row) {
            left[row] += x[row * inputs + i] * a;
            right[row] += x[row * inputs + i] * b;
        }
#endif
    }
    for (int row = 0; row < ROWS; ++row) {
        store(sums[row], left[row]);
        store(sums[row] + LANES, right[row]);
    }
}

#if TILES
// The same with AMX, sixteen rows at a time: a tile of x [16 rows][32 inputs] times one of weights [16 pairs][16].
template <int BLOCKS>
void multiply_tiles(const Weight *panel, const Weight *x, int64_t inputs, float (*sums)[PANEL]) {
    constexpr int64_t WIDTH = 32;
    const int64_t x_stride = inputs * sizeof(Weight), panel_stride = PANEL * PAIR * sizeof(Weight);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < inputs; i += WIDTH, panel += PANEL * WIDTH) {
        _tile_loadd(6, panel, panel_stride);
        _tile_loadd(7, panel + PANEL, panel_stride);
        _tile_loadd(4, x + i, x_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (BLOCKS == 2) {
            _tile_loadd(5, x + 16 * inputs + i, x_stride);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0], PANEL * sizeof(float));
    _tile_stored(1, sums[0] + LANES, PANEL * sizeof(float));
    if (BLOCKS == 2) {
        _tile_stored(2, sums[16], PANEL * sizeof(float));
        _tile_stored(3, sums[16] + LANES, PANEL * sizeof(float));
    }
}

// Linux lends the tiles' registers to those who ask. Asked once, before the first step.
bool ask_for_tiles() {
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
const bool has_tiles = ask_for_tiles();

void configure_tiles() {  // each thread has registers of its own
    struct {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes_per_row[16] = {};
        uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 8; ++tile) shape.bytes_per_row[tile] = 64, shape.rows[tile] = 16;
    _tile_loadconfig(&shape);
}
#else
constexpr bool has_tiles = false;
#endif

#if defined(__AVX512F__)
constexpr int ROWS_AT_ONCE = 12;  // their 24 sums, and what is added to them, just fit 32 registers
#else
constexpr int ROWS_AT_ONCE = 8;
#endif

// The same for a number of rows that is known only now: up to ROWS, or (below) any.
template <int ROWS, class Number>
void multiply_few_rows(const Number *panel, const Weight *x, int64_t inputs, int64_t rows, float (*sums)[PANEL]) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) return multiply_rows<ROWS>(panel, x, inputs, sums);
        multiply_few_rows<ROWS - 1>(panel, x, inputs, rows, sums);
    }
}

template <class Number>
void multiply_any_rows(const Number *panel, const Weight *x, int64_t inputs, int64_t rows, float (*sums)[PANEL]) {
    for (int64_t row = 0; row < rows; row += ROWS_AT_ONCE) {
        const int64_t count = rows - row < ROWS_AT_ONCE ? rows - row : ROWS_AT_ONCE;
        multiply_few_rows<ROWS_AT_ONCE>(panel, x + row * inputs, inputs, count, sums + row);
    }
}

constexpr int64_t FEW_ROWS = 1;  // up to here, tiles would be mostly empty

void multiply(const Weight *panel, const Weight *x, int64_t inputs, int64_t rows, float (*sums)[PANEL]) {
#if TILES
    if (has_tiles && rows > FEW_ROWS)
        return rows > 16 ? multiply_tiles<2>(panel, x, inputs, sums) : multiply_tiles<1>(panel, x, inputs, sums);
#endif
    multiply_any_rows(panel, x, inputs, rows, sums);
}

// A panel as `multiply` reads it. One of eight bits is widened once for many rows, into `to`, and not at all for few:
// then this returns null, and it is widened at each reading.
inline const Weight *as_weights(const Weight *panel, int64_t, int64_t, Weight *) { return panel; }
const Weight *as_weights(const int8_t *panel, int64_t inputs, int64_t rows, Weight *to) {
    if (rows <= (has_tiles ? FEW_ROWS : 2 * ROWS_AT_ONCE)) return nullptr;
    for (int64_t i = 0; i < inputs * PANEL; i += PANEL) {
        __builtin_prefetch(panel + i + 2 * PAGE);
#if PAIR_PRODUCTS
        _mm512_storeu_si512(to + i, (__m512i)load_pairs(panel + i));
#else
        store(to + i, load(panel + i));
        store(to + i + LANES, load(panel + i + LANES));
#endif
    }
    return to;
}

// x [rows][inputs] times a matrix; `take(row, panel, sums)` gets the 32 results of each row and panel.
// The threads share the panels out, so each weight is read by one of them, once for every 32 rows.
// `wide_panel` [inputs][32], if the matrix is of eight bits, is the calling thread's own to work in.
template <class Take>
void product(const Matrix &matrix, const Weight *x, int64_t rows, Weight *wide_panel, Take take) {
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < matrix.panel_count; ++panel) {
        const Stored *stored = matrix.panels + panel * matrix.inputs * PANEL;
        const Weight *weights = as_weights(stored, matrix.inputs, rows, wide_panel);
        for (int64_t first = 0; first < rows; first += BLOCK) {
            const int64_t count = rows - first < BLOCK ? rows - first : BLOCK;
            const Weight *inputs = x + first * matrix.inputs;
            alignas(64) float sums[BLOCK][PANEL];
            if (weights)
                multiply(weights, inputs, matrix.inputs, count, sums);
            else
                multiply_any_rows(stored, inputs, matrix.inputs, count, sums);
            for (int64_t row = 0; row < count; ++row) {
                for (int64_t i = 0; matrix.scales && i < PANEL; ++i) sums[row][i] *= matrix.scales[panel * PANEL + i];
                take(first + row, panel, sums[row]);
            }
        }
    }
}

}  // namespace
