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

// Call `work(group, panel)` for each panel of each group's expert, and return when all threads have.
template <class Work>
void for_each_panel(const Groups &groups, int64_t panels, const Step &step, Work work) {
    work_off(step.shares, groups.most_rows > FEW_TO_SHARE,
             [&](int64_t i) { work(groups.first[i / panels], i % panels); });
#pragma omp barrier
}

template <class Take>
void plain_product(const Matrix &matrix, const Weight *x, const Groups &groups, int64_t panels, const Step &step,
                   Take take) {
    const int64_t inputs = matrix.inputs;
    share_out(groups.count * panels, step.shares);
#pragma omp barrier
    for_each_panel(groups, panels, step, [&](const Group &group, int64_t panel) {
        const Weight *weights = matrix.panels + (group.expert * panels + panel) * inputs * PANEL;
        multiply_panel(weights, x + group.first * inputs, inputs, group.rows, panel,
                       [&](int64_t row, int64_t, const float *sums) { take(group.first + row, panel, sums); });
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
    for_each_panel(groups, panels, step, [&](const Group &group, int64_t panel) {
        multiply_quantized_panel(matrix, group.expert * panels + panel, tiles_of(group, matrix, step), room,
                                 [&](int64_t row, const float *sums) { take(group.first + row, panel, sums); });
    });
}
#elif FORMATS
template <class Take>
void product(const Matrix &matrix, const Activation *x, const Groups &groups, int64_t panels, const Step &step,
             Take take) {
    if (!matrix.strips) return plain_product(matrix, x, groups, panels, step, take);
    share_out(groups.count * panels, step.shares);
#pragma omp barrier
    for_each_panel(groups, panels, step, [&](const Group &group, int64_t panel) {
        const Weight *weights = widened_panel(matrix, group.expert * panels + panel, step);
        multiply_panel(weights, x + group.first * matrix.inputs, matrix.inputs, group.rows, panel,
                       [&](int64_t row, int64_t, const float *sums) { take(group.first + row, panel, sums); });
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
