// Attention: queries look at the keys and values of their own slot.
//
// A task is one key/value head and up to TOKENS neighbouring tokens of one slot: QUERIES queries over the same keys.
// There are two ways, by the instructions at hand; `attend` chooses.
//
// The cache lies in pages, each of PAGE_TOKENS positions of a text in all layers, so that memory, which the system
// gives in large pages, follows the tokens that are used: [page][layer][keys, values][kv_head][PAGE_TOKENS
// positions][HEAD_DIM]. A table says which pages a slot's text lies in.
//
// Defined by the compiler's command line: HEAD_DIM, PAGE_TOKENS, and GROUP, the query heads that share one key/value
// head.

#pragma once

#include "numbers.hpp"
#include "products.hpp"
#include "structures.hpp"

namespace {

constexpr int64_t TOKENS = GROUP < LANES ? LANES / GROUP : 1, QUERIES = TOKENS * GROUP;
constexpr int64_t KEYS = 32;  // keys or values that are worked on together
// How far ahead memory is prefetched: so many pages into the second-level cache, and so many numbers into the first,
// unless the processor does that faster by itself (READS_AHEAD, see `ways_of_processor` in sources.py).
constexpr int64_t PAGES_AHEAD = BF16 ? 2 : 1, NUMBERS_AHEAD = 512 / sizeof(Weight);
static_assert(PAGE_TOKENS % KEYS == 0 && (PAGE_TOKENS & (PAGE_TOKENS - 1)) == 0,
              "blocks of 16, 32, … positions lie in one page each");

// The keys or the values of one head in a token's slot.
struct Head {
    Weight *first;               // the head in the cache's first page
    const int64_t *pages;        // the slot's
    int64_t page_stride, begin;  // the latter is the first page of which the token sees something

    Head(const Model &model, const Layer &layer, Weight *of_layer, const Step &step, int64_t token, int64_t kv_head)
        : first(of_layer + kv_head * PAGE_TOKENS * HEAD_DIM), pages(model.pages + step.slots[token] * model.slot_pages),
          page_stride(model.page_stride),
          begin(max(step.positions[token] + 1 - layer.window, int64_t(0)) / PAGE_TOKENS) {}
    // A position, or a block of some that begins there.
    Weight *at(int64_t position) const {
        return first + pages[position / PAGE_TOKENS] * page_stride + position % PAGE_TOKENS * HEAD_DIM;
    }
    // The distance in numbers from a position of a text of this length to what is read PAGES_AHEAD later: of this head,
    // or of the one that is read next. A processor prefetches within a page by itself, but cannot tell where the next
    // page lies.
    int64_t later(int64_t position, int64_t length, const Head *next) const {
        const int64_t ahead = position + PAGES_AHEAD * PAGE_TOKENS, count = (length + PAGE_TOKENS - 1) / PAGE_TOKENS;
        if (ahead < length) return at(ahead) - at(position);
        if (!next) return 0;
        const int64_t beyond = next->begin + ahead / PAGE_TOKENS - count, page = beyond < count ? beyond : count - 1;
        return next->at(page * PAGE_TOKENS + position % PAGE_TOKENS) - at(position);
    }
};

// Prefetch memory into the second-level cache.
void prefetch(const Weight *from, int64_t numbers) {
    for (int64_t i = 0; i < numbers; i += 64 / int64_t(sizeof(Weight))) __builtin_prefetch(from + i, 0, 2);
}

struct Task {
    const Step &step;
    int64_t first, tokens, queries, stride, query_heads, output_size, window;
    float cap;                // of scores; 0: none
    const float *sinks;       // of the heads; or null
    Head keys, values, next;  // the last: the keys that this thread is likely to read after these values

    Task(const Model &model, const Layer &layer, const Step &step, int64_t first, int64_t tokens, int64_t kv_head,
         const Head &next)
        : step(step), first(first), tokens(tokens), queries(tokens * GROUP), stride(layer.qkv.panel_count * PANEL),
          query_heads(kv_head * GROUP), output_size(layer.output.inputs), window(layer.window), cap(model.score_cap),
          sinks(layer.sinks), keys(model, layer, layer.keys, step, first, kv_head),
          values(model, layer, layer.values, step, first, kv_head), next(next) {}
    int64_t position(int64_t query) const { return step.positions[first] + query / GROUP; }
    int64_t length() const { return step.positions[first] + tokens; }
    // At the beginning of a page, as several blocks of one are read together.
    int64_t first_block() const { return keys.begin * (PAGE_TOKENS / KEYS); }
    const float *query(int64_t query) const {
        return step.qkv + (first + query / GROUP) * stride + (query_heads + query % GROUP) * HEAD_DIM;
    }
    // A score with which the softmax begins; its weight takes a share, and has no value.
    float sink(int64_t query) const { return sinks ? sinks[query_heads + query % GROUP] : -INFINITE; }
    Activation *output(int64_t query) const {
        return step.attended + (first + query / GROUP) * output_size + (query_heads + query % GROUP) * HEAD_DIM;
    }
};

// --- With plain vectors ----------------------------------------------------------------------------------------------

void to_floats(const Weight *from, int64_t rows, int64_t later, float (*to)[HEAD_DIM]) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < HEAD_DIM; i += LANES) {
            const Weight *numbers = from + row * HEAD_DIM + i;
            if (!READS_AHEAD) __builtin_prefetch(numbers + NUMBERS_AHEAD);
            __builtin_prefetch(numbers + later, 0, 2);  // into the second-level cache
            store(to[row] + i, load(numbers));
        }
}

// Softmax of scores times values, in blocks of keys. A block with a score larger than all before scales down what was
// added up so far. (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".)
void attend_with_vectors(const Task &task) {
    constexpr int64_t PARTS = HEAD_DIM / LANES;
    const int64_t length = task.length();
    Floats outputs[QUERIES][PARTS] = {};
    float largest[QUERIES], total[QUERIES] = {};
    for (int64_t q = 0; q < task.queries; ++q) largest[q] = task.sink(q), total[q] = largest[q] > -INFINITE;
    for (int64_t start = task.first_block() * KEYS; start < length; start += KEYS) {
        const int64_t columns = length - start < KEYS ? length - start : KEYS;
        float block[KEYS][HEAD_DIM];
        float scores[QUERIES][KEYS];
        const int64_t later = task.keys.later(start, length, nullptr);  // the values' is the same
        to_floats(task.keys.at(start), columns, later, block);
        for (int64_t q = 0; q < task.queries; ++q)
            for (int64_t column = 0; column < columns; ++column) {
                Floats products = {};
                for (int64_t i = 0; i < HEAD_DIM; i += LANES)
                    products += load(task.query(q) + i) * load(block[column] + i);
                scores[q][column] = sum(products);
            }
        for (int64_t i = 0; task.cap && i < task.queries * KEYS; i += LANES) approach(scores[0] + i, task.cap);
        to_floats(task.values.at(start), columns, later, block);
        for (int64_t q = 0; q < task.queries; ++q) {
            const int64_t seen_until = task.position(q) + 1 - start;
            const int64_t begin = max(seen_until - task.window, int64_t(0)), end = min(seen_until, columns);
            if (begin >= end) continue;
            float *score = scores[q], now = largest[q];
            for (int64_t column = begin; column < end; ++column) now = score[column] > now ? score[column] : now;
            const float rescale = __builtin_expf(largest[q] - now);
            largest[q] = now;
            for (int64_t column = 0; column < begin; ++column) score[column] = now;  // computed, but never used
            for (int64_t column = end; column < KEYS; ++column) score[column] = now;
            for (int64_t column = 0; column < KEYS; column += LANES)
                store(score + column, exponential(load(score + column) - now));
            total[q] *= rescale;
            for (int64_t part = 0; part < PARTS; ++part) outputs[q][part] *= rescale;
            for (int64_t column = begin; column < end; ++column) {
                total[q] += score[column];
                for (int64_t part = 0; part < PARTS; ++part)
                    outputs[q][part] += score[column] * load(block[column] + part * LANES);
            }
        }
    }
    for (int64_t q = 0; q < task.queries; ++q)
        for (int64_t part = 0; part < PARTS; ++part) store(task.output(q) + part * LANES, outputs[q][part] / total[q]);
}

// --- With products of bfloat16 pairs, or tiles -----------------------------------------------------------------------
//
// Keys lie in a page as [key / 16][HEAD_DIM / 2][16 keys][PAIR], values as [key / 2][HEAD_DIM][PAIR], so both are
// read from front to back, and a lane is a key, then an output. A query's scores and outputs are added up in the order
// of its inputs and of the keys, whichever queries are computed with it and wherever the task ends: what it may not see
// adds zero. So a token has the same bits alone and in a chunk of any size.

constexpr bool ATTENDS_IN_PAIRS = PAIR_PRODUCTS && HEAD_DIM % (LANES * PAIR) == 0 && GROUP <= LANES;

#if PAIR_PRODUCTS
// ROWS rows of pairs times BLOCKS blocks of sixteen columns, added to `sums`. From one row, pair and block to the next
// it is so many numbers, and so many to what is read `later`: see `Head::later`.
template <int ROWS, int BLOCKS>
void multiply_pairs(const Weight *a, int64_t a_row, const Weight *b, int64_t b_pair, int64_t b_block, int64_t pairs,
                    int64_t later, Floats (&sums)[BLOCKS][ROWS]) {
    for (int64_t pair = 0; pair < pairs; ++pair, b += b_pair)
        for (int block = 0; block < BLOCKS; ++block) {
            const Weight *from = b + block * b_block;
            if (!READS_AHEAD) __builtin_prefetch(from + NUMBERS_AHEAD);
            __builtin_prefetch(from + later, 0, 2);  // into the second-level cache
            const __m512bh columns = load_pairs(from);
            for (int row = 0; row < ROWS; ++row)
                sums[block][row] = (Floats)_mm512_dpbf16_ps((__m512)sums[block][row], columns,
                                                            broadcast_pair(a + row * a_row + pair * PAIR));
        }
}

// As many sums at once as fit the registers, and enough of them for the processor to overlap.
constexpr int at_once(int rows, int most) {
    int count = 1;
    while (2 * count * rows <= 16 && 2 * count <= most) count *= 2;
    return count;
}

// `queries` [ROWS][HEAD_DIM] times blocks of sixteen keys, from one on: `scores` [block][ROWS][16]. The `next` ones are
// prefetched, too.
template <int ROWS, int BLOCKS = at_once(ROWS, PAGE_TOKENS / LANES < 8 ? PAGE_TOKENS / LANES : 8)>
void query_key_products(const Weight *queries, const Head &keys, const Head &next, int64_t block, int64_t blocks,
                        float *scores) {
#if TILES
    if (has_tiles) {
        for (; block < blocks; ++block) {
            const Weight *from = keys.at(block * LANES);
            prefetch(from + keys.later(block * LANES, blocks * LANES, &next), LANES * HEAD_DIM);
            _tile_zero(0);
            for (int64_t i = 0; i < HEAD_DIM; i += LANES * PAIR) {
                _tile_loadd(4, queries + i, HEAD_DIM * sizeof(Weight));
                _tile_loadd(6, from + i * LANES, LANES * PAIR * sizeof(Weight));
                _tile_dpbf16ps(0, 4, 6);
            }
            _tile_stored(0, scores + block * ROWS * LANES, LANES * sizeof(float));
        }
        return;
    }
#endif
    for (; block + BLOCKS <= blocks; block += BLOCKS) {
        Floats sums[BLOCKS][ROWS] = {};
        multiply_pairs<ROWS, BLOCKS>(queries, HEAD_DIM, keys.at(block * LANES), LANES * PAIR, LANES * HEAD_DIM,
                                     HEAD_DIM / PAIR, keys.later(block * LANES, blocks * LANES, &next), sums);
        for (int i = 0; i < BLOCKS; ++i)
            for (int row = 0; row < ROWS; ++row) store(scores + ((block + i) * ROWS + row) * LANES, sums[i][row]);
    }
    if constexpr (BLOCKS > 1) query_key_products<ROWS, BLOCKS / 2>(queries, keys, next, block, blocks, scores);
}

const Ints FIRST_COLUMNS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Softmax without its division, in place: scores [block of 16][ROWS][16] become weights [block of 32][ROWS][32], which
// are zero where a query may not look. `totals` are the sums of each query's weights.
template <int ROWS>
void softmax(float *scores, int64_t first_block, int64_t blocks, const int32_t *positions, int64_t window,
             const float *sinks, float *totals) {
    Floats largest[ROWS], sums[ROWS] = {};
    // What comes after a query is at a negative distance from it, which is a very large one without a sign.
    const auto is_visible = [&](int64_t key, int row) {
        return (Bits)(positions[row] - int32_t(key) - FIRST_COLUMNS) < uint32_t(window);
    };
    for (int row = 0; row < ROWS; ++row) largest[row] = broadcast(sinks[row]);
    for (int64_t key = first_block * KEYS; key < blocks * KEYS; key += LANES)
        for (int row = 0; row < ROWS; ++row) {
            const Floats score = load(scores + key * ROWS + row * LANES);
            largest[row] = select(is_visible(key, row) & (Ints)(score > largest[row]), score, largest[row]);
        }
    for (int row = 0; row < ROWS; ++row) largest[row] = broadcast(maximum(largest[row]));
    Weight *weights = reinterpret_cast<Weight *>(scores);
    for (int64_t key = first_block * KEYS; key < blocks * KEYS; key += KEYS)
        for (int row = 0; row < ROWS; ++row)
            for (int64_t half = 0; half < KEYS; half += LANES) {
                Floats weight = exponential(load(scores + (key + half) * ROWS + row * LANES) - largest[row]);
                weight = select(is_visible(key + half, row), weight, Floats{});
                sums[row] += weight;
                store(weights + key * ROWS + row * KEYS + half, weight);
            }
    for (int row = 0; row < ROWS; ++row) {
        const float sink = sinks[row] == -INFINITE ? 0 : exponential(sinks[row] - largest[row])[0];
        totals[row] = sum(sums[row]) + sink;
    }
}

// `weights` [block of 32][ROWS][32] times PARTS times sixteen numbers of each value, from a number on: `outputs`
// [ROWS][HEAD_DIM]. The `next` keys are prefetched, too.
template <int ROWS, int PARTS>
void weighted_values(const Weight *weights, const Head &values, const Head &next, int64_t first, int64_t first_block,
                     int64_t blocks, float *outputs) {
#if TILES
    if (has_tiles) {
        static_assert(PARTS == 2, "one tile for each");
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t block = first_block; block < blocks; ++block) {
            const Weight *from = values.at(block * KEYS) + first * PAIR;
            if (first == 0) prefetch(from + values.later(block * KEYS, blocks * KEYS, &next), KEYS * HEAD_DIM);
            _tile_loadd(4, weights + block * ROWS * KEYS, KEYS * sizeof(Weight));
            _tile_loadd(6, from, HEAD_DIM * PAIR * sizeof(Weight));
            _tile_loadd(7, from + LANES * PAIR, HEAD_DIM * PAIR * sizeof(Weight));
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
        }
        _tile_stored(0, outputs + first, HEAD_DIM * sizeof(float));
        _tile_stored(1, outputs + first + LANES, HEAD_DIM * sizeof(float));
        return;
    }
#endif
    Floats sums[PARTS][ROWS] = {};
    for (int64_t block = first_block; block < blocks; ++block)
        multiply_pairs<ROWS, PARTS>(weights + block * ROWS * KEYS, KEYS, values.at(block * KEYS) + first * PAIR,
                                    HEAD_DIM * PAIR, LANES * PAIR, KEYS / PAIR,
                                    values.later(block * KEYS, blocks * KEYS, &next), sums);
    for (int part = 0; part < PARTS; ++part)
        for (int row = 0; row < ROWS; ++row) store(outputs + row * HEAD_DIM + first + part * LANES, sums[part][row]);
}

// ROWS queries, of which the task may fill only the first. `scratch` is [context][ROWS].
template <int ROWS>
void attend_in_pairs(const Task &task, float *scratch) {
    constexpr int PARTS = TILES ? 2 : at_once(ROWS, HEAD_DIM / LANES % 4 ? 2 : 4);
    const int64_t first = task.first_block(), blocks = (task.length() + KEYS - 1) / KEYS;
    alignas(64) Weight queries[ROWS][HEAD_DIM] = {};
    alignas(64) float outputs[ROWS][HEAD_DIM];
    int32_t positions[ROWS];
    float totals[ROWS], sinks[ROWS];
    for (int64_t q = 0; q < ROWS; ++q) {
        sinks[q] = q < task.queries ? task.sink(q) : -INFINITE;
        positions[q] = q < task.queries ? int32_t(task.position(q)) : -1;  // a row without a query sees nothing
        for (int64_t i = 0; q < task.queries && i < HEAD_DIM; i += LANES)
            store(queries[q] + i, load(task.query(q) + i));
    }
    query_key_products<ROWS>(queries[0], task.keys, task.values, 2 * first, 2 * blocks, scratch);
    for (int64_t i = first * KEYS * ROWS; task.cap && i < blocks * KEYS * ROWS; i += LANES)
        approach(scratch + i, task.cap);
    softmax<ROWS>(scratch, first, blocks, positions, task.window, sinks, totals);
    for (int64_t i = 0; i < HEAD_DIM; i += PARTS * LANES)
        weighted_values<ROWS, PARTS>(reinterpret_cast<Weight *>(scratch), task.values, task.next, i, first, blocks,
                                     outputs[0]);
    for (int64_t q = 0; q < task.queries; ++q)
        for (int64_t i = 0; i < HEAD_DIM; i += LANES) store(task.output(q) + i, load(outputs[q] + i) / totals[q]);
}
#endif

// --- Which, and for whom ---------------------------------------------------------------------------------------------

// `scratch` is [context][16].
void attend(const Task &task, float *scratch) {
#if PAIR_PRODUCTS
    if constexpr (ATTENDS_IN_PAIRS)
        return task.tokens == 1 && !has_tiles ? attend_in_pairs<GROUP>(task, scratch)
                                              : attend_in_pairs<LANES>(task, scratch);
#endif
    attend_with_vectors(task);
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
