// Rows times a matrix, by the best that the processor has for it: tiles, products of bfloat16 pairs, or plain vectors.
//
// Defined by the compiler's command line, besides what numbers.hpp needs: HAS_PLAIN, whether some matrices are not
// quantized, and READS_AHEAD, whether the processor reads faster by itself than if it is asked to (`ways_of_processor`
// in sources.py).

#pragma once

#include <omp.h>

#include "numbers.hpp"
#include "shares.hpp"
#if FORMATS
#include "inputs.hpp"
#include "kernels.hpp"
#include "strips.hpp"
#endif
#include "structures.hpp"
#if TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

// ROWS rows of x times VECTORS vectors of a panel, which are read once, from front to back. A row's sums are added up
// in the order of its inputs, so they are the same with any number of other rows.
template <int ROWS, int VECTORS>
void multiply_vectors(const Weight *panel, const Weight *x, int64_t inputs, float (*to)[PANEL]) {
    constexpr bool ASKS = !READS_AHEAD || ROWS > (BF16 ? 8 : 4);
    Floats sums[ROWS][VECTORS] = {};
    for (int64_t i = 0; i < inputs; i += PAIR, panel += PANEL * PAIR) {
        // Not in a function of its own: gcc 12 would then keep the sums in memory.
        const char *ahead = reinterpret_cast<const char *>(panel) + (ROWS > 1 ? 2 * PAGE : PAGE);
        for (int vector = 0; ASKS && vector < VECTORS; ++vector)
            __builtin_prefetch(ahead + vector * LANES * PAIR * int64_t(sizeof(Weight)));
#if PAIR_PRODUCTS
        __m512bh weights[VECTORS];
        for (int vector = 0; vector < VECTORS; ++vector) weights[vector] = load_pairs(panel + vector * LANES * PAIR);
        for (int row = 0; row < ROWS; ++row) {
            const __m512bh pair = broadcast_pair(x + row * inputs + i);
            for (int vector = 0; vector < VECTORS; ++vector)
                sums[row][vector] = (Floats)_mm512_dpbf16_ps((__m512)sums[row][vector], weights[vector], pair);
        }
#elif BF16
        Pairs weights[VECTORS];
        for (int vector = 0; vector < VECTORS; ++vector) weights[vector] = load_pairs(panel + vector * LANES * PAIR);
        for (int row = 0; row < ROWS; ++row) {
            const Pairs pair = broadcast_pair(x + row * inputs + i);
            for (int vector = 0; vector < VECTORS; ++vector) {
                const Floats sum = multiply_add(pair.first, weights[vector].first, sums[row][vector]);
                sums[row][vector] = multiply_add(pair.second, weights[vector].second, sum);
            }
        }
#else
        Floats weights[VECTORS];
        for (int vector = 0; vector < VECTORS; ++vector) weights[vector] = load(panel + vector * LANES);
        for (int row = 0; row < ROWS; ++row) {
            const Floats number = broadcast(x[row * inputs + i]);
            for (int vector = 0; vector < VECTORS; ++vector)
                sums[row][vector] = multiply_add(number, weights[vector], sums[row][vector]);
        }
#endif
    }
    for (int row = 0; row < ROWS; ++row)
        for (int vector = 0; vector < VECTORS; ++vector) store(to[row] + vector * LANES, sums[row][vector]);
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

// A process must request the tile registers from Linux. Done once, before the first step.
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
constexpr int ROWS_OF_WHOLE_PANELS = ROWS_AT_ONCE;
#else
constexpr int ROWS_AT_ONCE = BF16 ? 4 : 6;  // of half a panel, with 16 registers of half a vector
constexpr int ROWS_OF_WHOLE_PANELS = BF16 ? 1 : 2;
#endif

// ROWS rows of x times one panel: all of it at once, if its sums fit the registers.
template <int ROWS>
void multiply_rows(const Weight *panel, const Weight *x, int64_t inputs, float (*sums)[PANEL]) {
    if constexpr (ROWS <= ROWS_OF_WHOLE_PANELS) {
        multiply_vectors<ROWS, 2>(panel, x, inputs, sums);
    } else {
        multiply_vectors<ROWS, 1>(panel, x, inputs, sums);
        multiply_vectors<ROWS, 1>(panel + LANES * PAIR, x, inputs, reinterpret_cast<float (*)[PANEL]>(sums[0] + LANES));
    }
}

// The same for a number of rows that is known only at run time: up to ROWS, or (below) any number.
template <int ROWS>
void multiply_few_rows(const Weight *panel, const Weight *x, int64_t inputs, int64_t rows, float (*sums)[PANEL]) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS) return multiply_rows<ROWS>(panel, x, inputs, sums);
        multiply_few_rows<ROWS - 1>(panel, x, inputs, rows, sums);
    }
}

constexpr int64_t FEW_ROWS = 1;  // up to here, tiles would be mostly empty

void multiply(const Weight *panel, const Weight *x, int64_t inputs, int64_t rows, float (*sums)[PANEL]) {
#if TILES
    if (has_tiles && rows > FEW_ROWS)
        return rows > 16 ? multiply_tiles<2>(panel, x, inputs, sums) : multiply_tiles<1>(panel, x, inputs, sums);
#endif
    for (int64_t row = 0; row < rows; row += ROWS_AT_ONCE) {
        const int64_t count = rows - row < ROWS_AT_ONCE ? rows - row : ROWS_AT_ONCE;
        multiply_few_rows<ROWS_AT_ONCE>(panel, x + row * inputs, inputs, count, sums + row);
    }
}

// The biases of a panel's outputs, or null.
inline const float *biases_of(const Matrix &matrix, int64_t panel) {
    return matrix.bias ? matrix.bias + panel * PANEL : nullptr;
}

inline void add_biases(const float *biases, int64_t rows, float (*sums)[PANEL]) {
    for (int64_t row = 0; biases && row < rows; ++row)
        for (int64_t i = 0; i < PANEL; i += LANES) store(sums[row] + i, load(sums[row] + i) + load(biases + i));
}

// All rows times one panel, 32 at a time, so that what they need of the caches does not grow.
template <class Take>
void multiply_panel(const Weight *weights, const float *biases, const Weight *x, int64_t inputs, int64_t rows,
                    Take take) {
    for (int64_t first = 0; first < rows; first += BLOCK) {
        const int64_t count = rows - first < BLOCK ? rows - first : BLOCK;
        alignas(64) float sums[BLOCK][PANEL];
        multiply(weights, x + first * inputs, inputs, count, sums);
        add_biases(biases, count, sums);
        for (int64_t row = 0; row < count; ++row) take(first + row, sums[row]);
    }
}

// With few rows, each thread prepares all of them for a product, in memory of its own: waiting for the other threads,
// and fetching their results from their caches, takes longer. (There is room for at least 32 rows of each thread.)
constexpr int64_t FEW_TO_PREPARE = 8;
inline bool each_for_itself(int64_t rows, const Step &step) { return rows * step.threads <= FEW_TO_PREPARE; }

// With more rows than these, threads help one another with a product. With fewer, the memory is the limit, and a thread
// that takes over another one's panels has to wait for them.
constexpr int64_t FEW_TO_SHARE = 12;
static_assert(FEW_TO_SHARE >= FEW_TO_PREPARE, "with so many rows, threads meet once the inputs are prepared");

// Share the panels out where no barrier follows by itself.
inline void share_out_with_barrier(const Matrix &matrix, int64_t rows, const Step &step) {
    share_out(matrix.panel_count, step.shares);
    if (rows > FEW_TO_SHARE) {
#pragma omp barrier
    }
}

// Call `work(panel)` for the panels that have been shared out, and return when all threads have.
template <class Work>
void for_each_panel(int64_t rows, const Step &step, Work work) {
    work_off(step.shares, rows > FEW_TO_SHARE, work);
#pragma omp barrier
}

// x [rows][inputs] times a matrix, plus its biases; `take(row, panel, sums)` gets the 32 results of each row and panel.
// The threads share the panels out, so each weight is read by one of them, once for every 32 rows.
template <class Take>
void plain_product(const Matrix &matrix, const Weight *x, int64_t rows, const Step &step, Take take) {
    share_out_with_barrier(matrix, rows, step);
    for_each_panel(rows, step, [&](int64_t panel) {
        multiply_panel(matrix.panels + panel * matrix.inputs * PANEL, biases_of(matrix, panel), x, matrix.inputs, rows,
                       [&](int64_t row, const float *sums) { take(row, panel, sums); });
    });
}

#if FORMATS && BF16
// A product's inputs as integers, in tiles of rows.
struct Tiles {
    Tiling tiling;
    int64_t inputs;
    uint8_t *first;
    uint8_t *at(int64_t tile) const { return first + tiling.first(tile) * Tile::ROOM * inputs; }
};

Tiles tiles_for(int64_t rows, const Matrix &matrix, uint8_t *room) {
    const bool is_of_blocks = matrix.scaled_inputs > GROUP_INPUTS;
    return {tiling_for(rows, is_of_blocks, matrix.strips[0].format == Q8_0::NUMBER), matrix.inputs, room};
}

// `count` inputs of each row of a tile, from `first` on: those that share a scale.
void quantize_rows(const float *x, const Tiles &tiles, int64_t tile, int64_t first, int64_t count) {
    const int64_t first_row = tiles.tiling.first(tile), rows = tiles.tiling.count(tile);
    const Tile to(tiles.at(tile), rows, tiles.inputs);
    for (int64_t row = 0; row < rows; ++row)
        quantize_inputs(x + (first_row + row) * tiles.inputs + first, count, to, rows, first, row);
}

// All inputs become integers, in `step.inputs`.
Tiles quantize(const float *x, int64_t rows, const Matrix &matrix, const Step &step) {
    const bool is_own = each_for_itself(rows, step);
    const int64_t inputs = matrix.inputs, count = matrix.scaled_inputs;
    const Tiles tiles =
        tiles_for(rows, matrix, step.inputs + (is_own ? omp_get_thread_num() * rows * Tile::ROOM * inputs : 0));
    const int64_t tile_count = tiles.tiling.tiles, pieces = inputs / count * tile_count;
    const auto quantize_piece = [&](int64_t i) {
        quantize_rows(x, tiles, i % tile_count, i / tile_count * count, count);
    };
    if (is_own) {
        for (int64_t i = 0; i < pieces; ++i) quantize_piece(i);
    } else {
        // Rows of a tile share cache lines, groups of inputs do not: so a thread gets groups, of all rows, since what
        // it computed before are its outputs of all rows.
#pragma omp for schedule(static)
        for (int64_t i = 0; i < pieces; ++i) quantize_piece(i);
    }
    return tiles;
}

// Both strips of a panel with each code as a byte, in `room`, if that is how they are multiplied; or null.
const uint8_t *unpacked(const Strip *strips, const Tiles &tiles, uint8_t *room) {
    bool is_unpacked = false;
    if (tiles.tiling.way == Way::UNPACKED && strips[0].format == strips[1].format)
        with_format(strips[0].format, [&](auto format) {
            using F = decltype(format);
            if constexpr (are_unpacked<F>) {
                Kernels<F::NUMBER>::unpack(strips[0].packed, tiles.inputs, room);
                Kernels<F::NUMBER>::unpack(strips[1].packed, tiles.inputs,
                                           room + Strips<Unpacked<F>>::size(tiles.inputs));
                is_unpacked = true;
            }
        });
    return is_unpacked ? room : nullptr;
}

// One tile times two strips that are unpacked. It asks for its part of what lies behind them, packed.
template <class F>
void multiply_unpacked(const Strip *strips, const uint8_t *codes, const Tiles &tiles, int64_t number,
                       float (*sums)[PANEL]) {
    const int64_t inputs = tiles.inputs, blocks = inputs / F::SIZE, packed_size = Strips<F>::size(inputs);
    const int64_t lines = 2 * packed_size / 64, parts = blocks * tiles.tiling.tiles;
    const int64_t bytes_per_block = (lines + parts - 1) / parts * 64;
    const uint8_t *next = strips[1].packed + packed_size + number * blocks * bytes_per_block;
    Kernels<F::NUMBER>::multiply_unpacked(codes, tiles.at(number), tiles.tiling.count(number), inputs, next,
                                          bytes_per_block, sums);
}

// One tile times two strips at a time. Meanwhile it asks for the next two; or for one of them, if another tile asks for
// the other: a tile that asked for both would wait for the memory, which would then have nothing to do.
template <class F>
void multiply_both(const Strip *strips, const Tiles &tiles, int64_t number, float (*sums)[PANEL]) {
    const uint8_t *const both[] = {strips[0].packed, strips[1].packed};
    const int64_t size = both[1] - both[0];
    const uint8_t *next[] = {both[1] + size, both[1] + 2 * size};
    if (tiles.tiling.rows >= 2 * ROWS_OF_WIDE_TILE) {
        const uint8_t *of_tile = next[number == 0 ? 0 : 1];
        next[0] = next[1] = of_tile;
    }
    Kernels<F::NUMBER>::multiply_both(both, tiles.at(number), tiles.inputs, sums, {next[0], next[1]});
}

// One tile times one panel, which is two strips. In most files these are of one format. `codes` are theirs if they are
// unpacked, or null.
void multiply_strips(const Strip *strips, const uint8_t *codes, const Tiles &tiles, int64_t number,
                     float (*sums)[PANEL]) {
    uint8_t *tile = tiles.at(number);
    const int64_t rows = tiles.tiling.count(number), inputs = tiles.inputs;
    const bool are_alike = strips[0].format == strips[1].format;
    if (codes)
        return with_format(strips[0].format, [&](auto format) {
            multiply_unpacked<decltype(format)>(strips, codes, tiles, number, sums);
        });
    if (tiles.tiling.way == Way::BOTH_STRIPS && rows == ROWS_OF_WIDE_TILE && are_alike)
        return with_format(strips[0].format,
                           [&](auto format) { multiply_both<decltype(format)>(strips, tiles, number, sums); });
    for (int64_t half = 0; half < 2; ++half) {
        float (*to)[PANEL] = reinterpret_cast<float (*)[PANEL]>(sums[0] + half * LANES);
        with_format(strips[half].format, [&](auto format) {
            Kernels<format.NUMBER>::multiply_strip(strips[half].packed, tile, rows, inputs, to);
        });
    }
}

// All tiles times one panel. `room` is the calling thread's own.
template <class Take>
void multiply_quantized_panel(const Matrix &matrix, int64_t panel, const Tiles &tiles, uint8_t *room, Take take) {
    const Strip *strips = matrix.strips + 2 * panel;
    const uint8_t *codes = unpacked(strips, tiles, room);
    for (int64_t tile = 0; tile < tiles.tiling.tiles; ++tile) {
        alignas(64) float sums[ROWS_OF_TILE][PANEL];
        multiply_strips(strips, codes, tiles, tile, sums);
        const int64_t first = tiles.tiling.first(tile), count = tiles.tiling.count(tile);
        add_biases(biases_of(matrix, panel), count, sums);
        for (int64_t row = 0; row < count; ++row) take(first + row, sums[row]);
    }
}

inline uint8_t *room_of_thread(const Step &step) {
    return reinterpret_cast<uint8_t *>(step.widened + omp_get_thread_num() * step.widened_size);
}

// The same as a plain product with a quantized matrix.
template <class Take>
void quantized_product(const Matrix &matrix, const float *x, int64_t rows, const Step &step, Take take) {
    share_out(matrix.panel_count, step.shares);  // all threads meet when the inputs are there
    const Tiles tiles = quantize(x, rows, matrix, step);
    uint8_t *room = room_of_thread(step);
    for_each_panel(rows, step, [&](int64_t panel) {
        multiply_quantized_panel(matrix, panel, tiles, room,
                                 [&](int64_t row, const float *sums) { take(row, panel, sums); });
    });
}

// A quantized model may have matrices that are not. Their inputs become bfloat16 here.
const Weight *narrowed(const Matrix &matrix, const float *x, int64_t rows, const Step &step) {
    Weight *inputs = reinterpret_cast<Weight *>(step.inputs);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows * matrix.inputs; i += LANES) store(inputs + i, load(x + i));
    return inputs;
}

template <class Take>
void product(const Matrix &matrix, const Activation *x, int64_t rows, const Step &step, Take take) {
    if constexpr (HAS_PLAIN)
        if (!matrix.strips) return plain_product(matrix, narrowed(matrix, x, rows, step), rows, step, take);
    quantized_product(matrix, x, rows, step, take);
}
#elif FORMATS
// In float32 a quantized panel becomes floats, in the calling thread's own memory.
const Weight *widened_panel(const Matrix &matrix, int64_t panel, const Step &step) {
    Weight *widened = step.widened + omp_get_thread_num() * step.widened_size;
    for (int64_t half = 0; half < 2; ++half) {
        const Strip &strip = matrix.strips[2 * panel + half];
        with_format(strip.format, [&](auto format) {
            widen_strip<decltype(format)>(strip.packed, matrix.inputs, PANEL, widened + half * LANES);
        });
    }
    return widened;
}

template <class Take>
void product(const Matrix &matrix, const Activation *x, int64_t rows, const Step &step, Take take) {
    if (!matrix.strips) return plain_product(matrix, x, rows, step, take);
    share_out_with_barrier(matrix, rows, step);
    for_each_panel(rows, step, [&](int64_t panel) {
        multiply_panel(widened_panel(matrix, panel, step), biases_of(matrix, panel), x, matrix.inputs, rows,
                       [&](int64_t row, const float *sums) { take(row, panel, sums); });
    });
}
#else
template <class Take>
void product(const Matrix &matrix, const Activation *x, int64_t rows, const Step &step, Take take) {
    plain_product(matrix, x, rows, step, take);
}
#endif

}  // namespace
