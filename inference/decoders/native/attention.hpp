// Attention: queries look at the keys and values of their own slot.
//
// A task is one key/value head and up to TOKENS neighbouring tokens of one slot: QUERIES queries over the same keys.
// There are three ways, by the instructions at hand and by how many queries there are; `attend` chooses.
//
// Defined by the compiler's command line: HEAD_DIM, and GROUP, the query heads that share one key/value head.

#pragma once

#include <cmath>

#include "numbers.hpp"
#include "products.hpp"
#include "structures.hpp"

namespace {

constexpr int64_t TOKENS = GROUP < LANES ? LANES / GROUP : 1, QUERIES = TOKENS * GROUP;
constexpr int64_t KEYS = 32;  // keys or values that are worked on together

struct Task {
    const Step &step;
    int64_t first, tokens, queries, stride, query_heads;
    const Weight *keys, *values;  // of the slot's row

    Task(const Model &model, const Layer &layer, const Step &step, int64_t first, int64_t tokens, int64_t kv_head)
        : step(step), first(first), tokens(tokens), queries(tokens * GROUP), stride(layer.qkv.panel_count * PANEL),
          query_heads(kv_head * GROUP) {
        const int64_t row = (step.slots[first] * model.kv_heads + kv_head) * model.context * HEAD_DIM;
        keys = layer.keys + row;
        values = layer.values + row;
    }
    int64_t position(int64_t query) const { return step.positions[first] + query / GROUP; }
    int64_t length() const { return step.positions[first] + tokens; }
    const float *query(int64_t query) const {
        return step.qkv + (first + query / GROUP) * stride + (query_heads + query % GROUP) * HEAD_DIM;
    }
    Activation *answer(int64_t query, int64_t inputs) const {
        return step.attended + (first + query / GROUP) * inputs + (query_heads + query % GROUP) * HEAD_DIM;
    }
};

// --- With plain vectors ----------------------------------------------------------------------------------------------

void to_floats(const Weight *from, int64_t rows, float (*to)[HEAD_DIM]) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < HEAD_DIM; i += LANES) store(to[row] + i, load(from + row * HEAD_DIM + i));
}

// Softmax of scores times values, in blocks of keys. A block with a score larger than all before scales down what was
// added up so far. (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".)
void attend_with_vectors(const Task &task, int64_t inputs) {
    constexpr int64_t PARTS = HEAD_DIM / LANES;
    const int64_t length = task.length();
    Floats answer[QUERIES][PARTS] = {};
    float largest[QUERIES], total[QUERIES] = {};
    for (int64_t q = 0; q < task.queries; ++q) largest[q] = -INFINITY;
    for (int64_t start = 0; start < length; start += KEYS) {
        const int64_t columns = length - start < KEYS ? length - start : KEYS;
        float block[KEYS][HEAD_DIM];
        float scores[QUERIES][KEYS];
        to_floats(task.keys + start * HEAD_DIM, columns, block);
        for (int64_t q = 0; q < task.queries; ++q)
            for (int64_t column = 0; column < columns; ++column) {
                Floats products = {};
                for (int64_t i = 0; i < HEAD_DIM; i += LANES)
                    products += load(task.query(q) + i) * load(block[column] + i);
                scores[q][column] = sum(products);
            }
        to_floats(task.values + start * HEAD_DIM, columns, block);
        for (int64_t q = 0; q < task.queries; ++q) {
            int64_t visible = task.position(q) + 1 - start;
            if (visible <= 0) continue;
            if (visible > columns) visible = columns;
            float *score = scores[q], now = largest[q];
            for (int64_t column = 0; column < visible; ++column) now = score[column] > now ? score[column] : now;
            const float rescale = std::exp(largest[q] - now);
            largest[q] = now;
            for (int64_t column = visible; column < KEYS; ++column) score[column] = now;  // computed, but never used
            for (int64_t column = 0; column < KEYS; column += LANES)
                store(score + column, exponential(load(score + column) - now));
            total[q] *= rescale;
            for (int64_t part = 0; part < PARTS; ++part) answer[q][part] *= rescale;
            for (int64_t column = 0; column < visible; ++column) {
                total[q] += score[column];
                for (int64_t part = 0; part < PARTS; ++part)
                    answer[q][part] += score[column] * load(block[column] + part * LANES);
            }
        }
    }
    for (int64_t q = 0; q < task.queries; ++q)
        for (int64_t part = 0; part < PARTS; ++part)
            store(task.answer(q, inputs) + part * LANES, answer[q][part] / total[q]);
}

// --- With products of bfloat16 pairs, or tiles: a lane for each query ------------------------------------------------

constexpr bool ATTENDS_IN_LANES = PAIR_PRODUCTS && HEAD_DIM % KEYS == 0 && GROUP <= LANES;

#if PAIR_PRODUCTS
// Sixteen rows of `a` times pairs of numbers in `b` [16 * blocks][16][PAIR], in blocks of 32 inputs: `to` [16][16].
// From one block to the next, the rows of `a` are `step` further.
void multiply_lanes(const Weight *a, int64_t stride, int64_t step, const Weight *b, int64_t blocks, float *to) {
    Floats sums[LANES] = {};
    for (int64_t block = 0; block < blocks; ++block, a += step)
        for (int64_t i = 0; i < KEYS; i += PAIR, b += LANES * PAIR) {
            const __m512bh pairs = (__m512bh)_mm512_loadu_si512(b);
            for (int64_t row = 0; row < LANES; ++row) {
                int32_t both;
                memcpy(&both, a + row * stride + i, sizeof both);
                sums[row] = (Floats)_mm512_dpbf16_ps((__m512)sums[row], pairs, (__m512bh)_mm512_set1_epi32(both));
            }
        }
    for (int64_t row = 0; row < LANES; ++row) store(to + row * LANES, sums[row]);
}

// Sixteen keys, as they lie in the cache, times all queries: `scores` [16][16].
void query_key_products(const Weight *keys, const Weight *queries, float *scores) {
#if TILES
    if (has_tiles) {
        _tile_zero(0);
        for (int64_t i = 0; i < HEAD_DIM; i += KEYS) {
            _tile_loadd(4, keys + i, HEAD_DIM * sizeof(Weight));
            _tile_loadd(6, queries + i * LANES, LANES * PAIR * sizeof(Weight));
            _tile_dpbf16ps(0, 4, 6);
        }
        _tile_stored(0, scores, LANES * sizeof(float));
        return;
    }
#endif
    multiply_lanes(keys, HEAD_DIM, KEYS, queries, HEAD_DIM / KEYS, scores);
}

// 32 numbers of each value times the keys' weights, in blocks of 32 keys: `outputs` [32][16].
void weighted_values(const Weight *values, const Weight *weights, int64_t blocks, float *outputs) {
#if TILES
    if (has_tiles) {
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t block = 0; block < blocks; ++block, values += HEAD_DIM * KEYS) {
            _tile_loadd(6, weights + block * KEYS * LANES, LANES * PAIR * sizeof(Weight));
            _tile_loadd(4, values, KEYS * sizeof(Weight));
            _tile_loadd(5, values + LANES * KEYS, KEYS * sizeof(Weight));
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 5, 6);
        }
        _tile_stored(0, outputs, LANES * sizeof(float));
        _tile_stored(1, outputs + LANES * LANES, LANES * sizeof(float));
        return;
    }
#endif
    for (int64_t half = 0; half < 2; ++half)
        multiply_lanes(values + half * LANES * KEYS, KEYS, HEAD_DIM * KEYS, weights, blocks,
                       outputs + half * LANES * LANES);
}

// Scores are keys times queries, so the keys are read as they lie in the cache; outputs are values times weights, with
// values that lie transposed in the cache, 32 keys side by side (see `rope_and_store` in decoder.cpp). The scores of
// the whole text are kept, in `scratch` [context][16], and become the weights in place.
void attend_in_lanes(const Task &task, int64_t inputs, float *scratch) {
    const int64_t length = task.length();
    Weight queries[HEAD_DIM / PAIR][LANES][PAIR] = {};
    Ints positions = Ints{} - 1;  // a lane without a query sees nothing
    for (int64_t q = 0; q < task.queries; ++q) {
        positions[q] = task.position(q);
        Weight row[HEAD_DIM];
        for (int64_t i = 0; i < HEAD_DIM; i += LANES) store(row + i, load(task.query(q) + i));
        for (int64_t i = 0; i < HEAD_DIM; ++i) queries[i / PAIR][q][i % PAIR] = row[i];
    }
    Floats largest = Floats{} - INFINITY;
    for (int64_t key = 0; key < length; key += LANES) {
        query_key_products(task.keys + key * HEAD_DIM, queries[0][0], scratch + key * LANES);
        for (int64_t k = key; k < key + LANES; ++k) {
            const Floats scores = load(scratch + k * LANES);
            largest = (Ints{} + int32_t(k) <= positions) & (Ints)(scores > largest) ? scores : largest;
        }
    }
    Floats total = {};
    const int64_t blocks = (length + KEYS - 1) / KEYS;
    Bits *weights = reinterpret_cast<Bits *>(scratch);  // [key / 2][16], two keys' weights in one number
    for (int64_t key = 0; key < blocks * KEYS; key += 2) {
        Bits both[2];
        for (int64_t k = key; k < key + 2; ++k) {
            Floats weight = exponential(load(scratch + k * LANES) - largest);
            weight = Ints{} + int32_t(k) <= positions ? weight : Floats{};
            total += weight;
            both[k - key] = rounded(weight);
        }
        weights[key / 2] = both[0] | both[1] << 16;
    }
    alignas(64) float outputs[HEAD_DIM][LANES];
    for (int64_t first = 0; first < HEAD_DIM; first += 2 * LANES)
        weighted_values(task.values + first * KEYS, reinterpret_cast<Weight *>(scratch), blocks, outputs[first]);
    for (int64_t i = 0; i < HEAD_DIM; ++i) store(outputs[i], load(outputs[i]) / total);
    for (int64_t q = 0; q < task.queries; ++q) {
        float row[HEAD_DIM];
        for (int64_t i = 0; i < HEAD_DIM; ++i) row[i] = outputs[i][q];
        for (int64_t i = 0; i < HEAD_DIM; i += LANES) store(task.answer(q, inputs) + i, load(row + i));
    }
}

// --- With products of bfloat16 pairs: a lane for each input, where the lanes of so few queries would be mostly empty -

constexpr bool ARE_FEW = GROUP <= 8;  // the queries of one token

// Sixteen rows of `a`, in blocks of 32 inputs as above, times one row: added to `sums`, which are to be added up.
void multiply_by_row(const Weight *a, int64_t stride, int64_t step, const Weight *row, int64_t blocks, Floats *sums) {
    for (int64_t block = 0; block < blocks; ++block, a += step, row += KEYS) {
        const __m512bh inputs = (__m512bh)_mm512_loadu_si512(row);
        for (int64_t i = 0; i < LANES; ++i) {
            const Weight *from = a + i * stride;
            __builtin_prefetch(reinterpret_cast<const char *>(from) + PAGE);
            sums[i] = (Floats)_mm512_dpbf16_ps((__m512)sums[i], inputs, (__m512bh)_mm512_loadu_si512(from));
        }
    }
}

// Sixteen vectors, each added up: lane i of what this returns is the sum of sums[i]. Two vectors become one four times
// over: halves, then quarters, of both side by side.
Floats add_up(const Floats *sums) {
    const auto halves = [](Floats x, Floats y) {
        const __m512 a = (__m512)x, b = (__m512)y;
        return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    };
    const auto quarters = [](__m512 a, __m512 b) {
        return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    };
    __m512 four[4];  // lanes 4 * j on of four[i]: what is left of sums[4 * j + i]
    for (int i = 0; i < 4; ++i) four[i] = quarters(halves(sums[i], sums[4 + i]), halves(sums[8 + i], sums[12 + i]));
    const auto eighths = [](__m512 a, __m512 b) {
        return (__m512d)_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    };
    const __m512d first = eighths(four[0], four[1]), second = eighths(four[2], four[3]);
    return (Floats)_mm512_add_ps((__m512)_mm512_unpacklo_pd(first, second), (__m512)_mm512_unpackhi_pd(first, second));
}

const Ints FIRST_COLUMNS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// In-place softmax without its division: weights take half the room of scores, and are zero past `length`. The largest
// score is in some lane of `largest`. Returns the sum of the weights.
float softmax(float *scores, int64_t columns, int64_t length, Floats largest) {
    float most = largest[0];
    for (int64_t lane = 1; lane < LANES; ++lane) most = largest[lane] > most ? largest[lane] : most;
    Floats total = {};
    for (int64_t key = 0; key < columns; key += LANES) {
        Floats weights = exponential(load(scores + key) - most);
        weights = FIRST_COLUMNS + int32_t(key) < int32_t(length) ? weights : Floats{};
        total += weights;
        store(reinterpret_cast<Weight *>(scores) + key, weights);
    }
    return sum(total);
}

// One token. The scores of the whole text are kept, in `scratch` [GROUP][columns], and become the weights in place.
void attend_in_rows(const Task &task, int64_t inputs, float *scratch) {
    constexpr int64_t PARTS = HEAD_DIM / LANES, AT_ONCE = 4;  // blocks of values, which the first cache holds
    const int64_t length = task.length(), blocks = (length + KEYS - 1) / KEYS, columns = blocks * KEYS;
    Weight queries[GROUP][HEAD_DIM];
    Floats largest[GROUP];
    for (int64_t q = 0; q < GROUP; ++q) {
        for (int64_t i = 0; i < HEAD_DIM; i += LANES) store(queries[q] + i, load(task.query(q) + i));
        largest[q] = Floats{} - INFINITY;
    }
    for (int64_t key = 0; key < length; key += LANES) {
        const Ints is_visible = FIRST_COLUMNS + int32_t(key) < int32_t(length);
        for (int64_t q = 0; q < GROUP; ++q) {
            Floats sums[LANES] = {};
            multiply_by_row(task.keys + key * HEAD_DIM, HEAD_DIM, KEYS, queries[q], HEAD_DIM / KEYS, sums);
            const Floats scores = add_up(sums);
            store(scratch + q * columns + key, scores);
            largest[q] = is_visible & (Ints)(scores > largest[q]) ? scores : largest[q];
        }
    }
    float total[GROUP];
    for (int64_t q = 0; q < GROUP; ++q) total[q] = softmax(scratch + q * columns, columns, length, largest[q]);
    Floats sums[PARTS][GROUP][LANES] = {};
    for (int64_t block = 0; block < blocks; block += AT_ONCE) {
        const int64_t count = blocks - block < AT_ONCE ? blocks - block : AT_ONCE;
        for (int64_t part = 0; part < PARTS; ++part) {
            const Weight *values = task.values + (block * HEAD_DIM + part * LANES) * KEYS;
            for (int64_t q = 0; q < GROUP; ++q) {
                const Weight *weights = reinterpret_cast<Weight *>(scratch + q * columns) + block * KEYS;
                multiply_by_row(values, KEYS, HEAD_DIM * KEYS, weights, count, sums[part][q]);
            }
        }
    }
    for (int64_t q = 0; q < GROUP; ++q)
        for (int64_t part = 0; part < PARTS; ++part)
            store(task.answer(q, inputs) + part * LANES, add_up(sums[part][q]) / total[q]);
}
#endif

// --- Which, and for whom ---------------------------------------------------------------------------------------------

// `inputs` is the length of a row of outputs, `scratch` is [context][16].
void attend(const Task &task, int64_t inputs, float *scratch) {
#if PAIR_PRODUCTS
    if (ATTENDS_IN_LANES)
        return ARE_FEW && task.tokens == 1 && !has_tiles ? attend_in_rows(task, inputs, scratch)
                                                         : attend_in_lanes(task, inputs, scratch);
#endif
    attend_with_vectors(task, inputs);
}

// Cut the tokens into runs of neighbours: next to each other in one slot, at most TOKENS.
void find_neighbours(const Step &step) {
    int64_t first = 0;
    for (int64_t token = 0; token < step.token_count; ++token) {
        const bool joins = token > 0 && token - first < TOKENS && step.slots[token] == step.slots[first] &&
                           step.positions[token] == step.positions[first] + token - first;
        if (!joins) first = token;
        step.neighbours[token] = 0;
        ++step.neighbours[first];
    }
}

}  // namespace
