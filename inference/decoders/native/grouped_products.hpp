// Rows times the matrices of experts: each group of rows is multiplied with the panels of its own expert.
//
// All groups together are one product: the threads share out the panels of all of them, and meet once.

#pragma once

#include "products.hpp"

namespace {

// The groups of a layer's rows, which lie side by side.
struct Groups {
    const Group *first;
    int64_t count = 0, rows = 0, most_rows = 0;

    explicit Groups(const Group *first) : first(first) {
        for (; first[count].rows > 0; ++count) {
            rows += first[count].rows;
            most_rows = max(most_rows, first[count].rows);
        }
    }
};

// Call `work(group, panel, take)` for each panel of each group's expert, and return when all threads have. The panel is
// that of the matrix of all experts, and `take` gets the results of a row of the group.
template <class Take, class Work>
void for_each_panel(const Groups &groups, int64_t panels, const Step &step, Take take, Work work) {
    work_off(step.shares, groups.most_rows > FEW_TO_SHARE, [&](int64_t i) {
        const Group &group = groups.first[i / panels];
        const int64_t panel = i % panels;
        work(group, group.expert * panels + panel,
             [&](int64_t row, const float *sums) { take(group.first + row, panel, sums); });
    });
#pragma omp barrier
}

template <class Take>
void plain_product(const Matrix &matrix, const Weight *x, const Groups &groups, int64_t panels, const Step &step,
                   Take take) {
    const int64_t inputs = matrix.inputs;
    share_out(groups.count * panels, step.shares);
#pragma omp barrier
    for_each_panel(groups, panels, step, take, [&](const Group &group, int64_t panel, auto take_row) {
        multiply_panel(matrix.panels + panel * inputs * PANEL, biases_of(matrix, panel), x + group.first * inputs,
                       inputs, group.rows, take_row);
    });
}

// x [rows][inputs] times a matrix of all experts, one below the other, of so many panels each; `take(row, panel, sums)`
// gets the 32 results of each row and panel of its expert.
#if FORMATS && BF16
inline Tiles tiles_of(const Group &group, const Matrix &matrix, const Step &step) {
    return tiles_for(group.rows, matrix, step.inputs + group.first * Tile::ROOM * matrix.inputs);
}

template <class Take>
void product(const Matrix &matrix, const Activation *x, const Groups &groups, int64_t panels, const Step &step,
             Take take) {
    if constexpr (HAS_PLAIN)
        if (!matrix.strips)
            return plain_product(matrix, narrowed(matrix, x, groups.rows, step), groups, panels, step, take);
    share_out(groups.count * panels, step.shares);
    const int64_t count = matrix.scaled_inputs, pieces = matrix.inputs / count;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < groups.count * pieces; ++i) {
        const Group &group = groups.first[i / pieces];
        const Tiles tiles = tiles_of(group, matrix, step);
        for (int64_t tile = 0; tile < tiles.tiling.tiles; ++tile)
            quantize_rows(x + group.first * matrix.inputs, tiles, tile, i % pieces * count, count);
    }
    uint8_t *room = room_of_thread(step);
    for_each_panel(groups, panels, step, take, [&](const Group &group, int64_t panel, auto take_row) {
        multiply_quantized_panel(matrix, panel, tiles_of(group, matrix, step), room, take_row);
    });
}
#elif FORMATS
template <class Take>
void product(const Matrix &matrix, const Activation *x, const Groups &groups, int64_t panels, const Step &step,
             Take take) {
    if (!matrix.strips) return plain_product(matrix, x, groups, panels, step, take);
    share_out(groups.count * panels, step.shares);
#pragma omp barrier
    for_each_panel(groups, panels, step, take, [&](const Group &group, int64_t panel, auto take_row) {
        multiply_panel(widened_panel(matrix, panel, step), biases_of(matrix, panel), x + group.first * matrix.inputs,
                       matrix.inputs, group.rows, take_row);
    });
}
#else
template <class Take>
void product(const Matrix &matrix, const Activation *x, const Groups &groups, int64_t panels, const Step &step,
             Take take) {
    plain_product(matrix, x, groups, panels, step, take);
}
#endif

}  // namespace
