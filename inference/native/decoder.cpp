// One step of a Llama-type decoder over the slots of a KV cache: token ids in, logits out, one call.
//
// A step at one stream reads every weight once and computes next to nothing, so all that counts is to read without a
// pause: no interpreter between two operators, one parallel region for all layers, weights that lie in the order in
// which they are read. Compiled when the server starts (build.py), for the machine it runs on; decoder.py packs the
// weights and calls `decoder_step`.
//
// Defined by the compiler's command line: BF16 (1: weights, cache and the inputs of products are bfloat16; 0: float32),
// HEAD_DIM, and GROUP, the query heads that share one key/value head. Sums are float32 either way, and so is `hidden`.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#if defined(__AVX512BF16__) && BF16
#include <immintrin.h>
#define PAIR_PRODUCTS 1  // an instruction that multiplies pairs of bfloat16, sixteen at a time
#else
#define PAIR_PRODUCTS 0
#endif
#if defined(__AMX_BF16__) && PAIR_PRODUCTS
#include <sys/syscall.h>
#include <unistd.h>
#define TILES 1
#else
#define TILES 0
#endif

namespace {

// --- Numbers: sixteen at a time -------------------------------------------------------------------------------------

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));
constexpr int64_t LANES = 16;

#if BF16
using Weight = uint16_t;     // a bfloat16 is the upper half of a float32
constexpr int64_t PAIR = 2;  // two inputs' weights lie side by side, as the processor's instructions want them
#else
using Weight = float;
constexpr int64_t PAIR = 1;
#endif

inline Floats load(const float *from) { return *reinterpret_cast<const Floats *>(from); }
inline void store(float *to, Floats numbers) { *reinterpret_cast<Floats *>(to) = numbers; }
inline Floats load(const uint16_t *from) {
    Bits wide = __builtin_convertvector(*reinterpret_cast<const Halves *>(from), Bits) << 16;
    return (Floats)wide;
}
inline Bits rounded(Floats numbers) {  // to the nearest bfloat16; of two, to the even one
    const Bits bits = (Bits)numbers;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
inline void store(uint16_t *to, Floats numbers) {
    *reinterpret_cast<Halves *>(to) = __builtin_convertvector(rounded(numbers), Halves);
}

inline float to_float(float number) { return number; }
inline float to_float(uint16_t number) {
    const uint32_t bits = uint32_t(number) << 16;
    float same;
    memcpy(&same, &bits, sizeof same);
    return same;
}

inline float sum(Floats numbers) {
    float lanes[LANES];
    store(lanes, numbers);
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// e^x to float32's last digit but one: 2^n by its bits, the rest by a polynomial on [-ln 2 / 2, ln 2 / 2].
inline Floats exponential(Floats x) {
    x = x < -87.0f ? Floats{} - 87.0f : x > 88.0f ? Floats{} + 88.0f : x;
    constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it leaves no place for a fraction
    Floats n = (x * 1.44269504f + ROUNDER) - ROUNDER;
    Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = 0.0416666667f + r * (0.00833333f + r * 0.00138889f);
    p = 1 + r * (1 + r * (0.5f + r * (0.166666667f + r * p)));
    Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    return p * (Floats)power;
}

// --- What decoder.py hands over (its ctypes structures mirror these) --------------------------------------------------

struct Matrix {
    const Weight *panels;  // [panel][input / PAIR][output within the panel: 32][PAIR], inputs filled up with zeros
    const float *bias;     // [panel * 32], or null
    int64_t inputs, panel_count;
};

struct Layer {
    Matrix qkv, output, gate_up, down;  // a panel of gate_up: 16 outputs of the gate, the same 16 of up
    const float *input_norm, *mlp_norm, *query_norm, *key_norm;  // the last two are null in most models
    Weight *keys, *values;                                       // [slot][kv_head][context][HEAD_DIM]
};

struct Model {
    const Layer *layers;
    Matrix head;
    const Weight *embedding;  // [vocabulary][hidden]
    const float *final_norm, *cosines, *sines;  // the latter two [context][HEAD_DIM]
    int64_t layer_count, hidden, vocabulary, kv_heads, context;
    double epsilon, scale;
};

struct Step {
    const int64_t *token_ids, *positions, *slots;  // [tokens]
    const int64_t *sampled;                        // [sampled_count], the tokens whose logits are wanted
    int64_t token_count, sampled_count, threads;
    // Room to work in.
    int64_t *neighbours;                     // [tokens], how many attend together from this one on; 0: with another
    float *hidden;                           // [tokens][hidden]
    float *qkv;                              // [tokens][qkv.panel_count * 32]
    Weight *normed, *attended, *activated;   // [tokens, in whole 32s][inputs of the product that reads it]
    float *scores;                           // [threads][context][16]
    float *logits;                           // [sampled_count][vocabulary]
};

// --- Products ---------------------------------------------------------------------------------------------------------

constexpr int64_t PANEL = 2 * LANES, BLOCK = 32;  // outputs, and rows, that are computed together
constexpr int64_t PAGE = 2048;  // bfloat16s in 4 KB: by itself, a processor looks ahead to the end of a page at most

// ROWS rows of x times one panel. The panel is read once, from front to back.
template <int ROWS>
void multiply_rows(const Weight *panel, const Weight *x, int64_t inputs, float (*sums)[PANEL]) {
    Floats left[ROWS] = {}, right[ROWS] = {};
    for (int64_t i = 0; i < inputs; i += PAIR, panel += PANEL * PAIR) {
        __builtin_prefetch(panel + 2 * PAGE);
        __builtin_prefetch(panel + 2 * PAGE + PANEL * PAIR / 2);
#if PAIR_PRODUCTS
        __m512bh a = (__m512bh)_mm512_loadu_si512(panel), b = (__m512bh)_mm512_loadu_si512(panel + PANEL);
        for (int row = 0; row < ROWS; ++row) {
            int32_t both;
            memcpy(&both, x + row * inputs + i, sizeof both);
            __m512bh pair = (__m512bh)_mm512_set1_epi32(both);
            left[row] = (Floats)_mm512_dpbf16_ps((__m512)left[row], a, pair);
            right[row] = (Floats)_mm512_dpbf16_ps((__m512)right[row], b, pair);
        }
#elif BF16
        Bits a = *reinterpret_cast<const Bits *>(panel), b = *reinterpret_cast<const Bits *>(panel + PANEL);
        Bits a0 = a << 16, a1 = a & 0xffff0000, b0 = b << 16, b1 = b & 0xffff0000;
        for (int row = 0; row < ROWS; ++row) {
            const float x0 = to_float(x[row * inputs + i]), x1 = to_float(x[row * inputs + i + 1]);
            left[row] += x0 * (Floats)a0 + x1 * (Floats)a1;
            right[row] += x0 * (Floats)b0 + x1 * (Floats)b1;
        }
#else
        Floats a = load(panel), b = load(panel + LANES);
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

constexpr int64_t FEW_ROWS = 1;  // up to here, tiles would be mostly empty

void multiply(const Weight *panel, const Weight *x, int64_t inputs, int64_t rows, float (*sums)[PANEL]) {
#if TILES
    if (has_tiles && rows > FEW_ROWS)
        return rows > 16 ? multiply_tiles<2>(panel, x, inputs, sums) : multiply_tiles<1>(panel, x, inputs, sums);
#endif
    int64_t row = 0;
    for (; row + 8 <= rows; row += 8) multiply_rows<8>(panel, x + row * inputs, inputs, sums + row);
    for (; row + 4 <= rows; row += 4) multiply_rows<4>(panel, x + row * inputs, inputs, sums + row);
    for (; row + 2 <= rows; row += 2) multiply_rows<2>(panel, x + row * inputs, inputs, sums + row);
    for (; row < rows; ++row) multiply_rows<1>(panel, x + row * inputs, inputs, sums + row);
}

// x [rows][inputs] times a matrix; `take(row, panel, sums)` gets the 32 results of each row and panel.
// The threads share the panels out, so each weight is read by one of them, once for every 32 rows.
template <class Take>
void product(const Matrix &matrix, const Weight *x, int64_t rows, Take take) {
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < matrix.panel_count; ++panel) {
        const Weight *weights = matrix.panels + panel * matrix.inputs * PANEL;
        for (int64_t first = 0; first < rows; first += BLOCK) {
            const int64_t count = rows - first < BLOCK ? rows - first : BLOCK;
            alignas(64) float sums[BLOCK][PANEL];
            multiply(weights, x + first * matrix.inputs, matrix.inputs, count, sums);
            for (int64_t row = 0; row < count; ++row) take(first + row, panel, sums[row]);
        }
    }
}

// --- The rest of a layer ----------------------------------------------------------------------------------------------

template <class To>
void rms_norm(const float *x, const float *weights, int64_t size, double epsilon, To *to) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < size; ++i) squares += x[i] * x[i];
    const float factor = 1 / std::sqrt(squares / size + epsilon);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) store(to + i, load(x + i) * factor * load(weights + i));
    if (i < size) {
        float rest[LANES] = {};
        for (int64_t j = i; j < size; ++j) rest[j - i] = x[j] * factor * weights[j];
        To last[LANES];
        store(last, load(rest));
        memcpy(to + i, last, (size - i) * sizeof(To));
    }
}

// Turn a head's first and second halves against each other, by an angle that grows with the position.
void rotate(float *head, const float *cosines, const float *sines) {
    constexpr int64_t HALF = HEAD_DIM / 2;
    for (int64_t i = 0; i < HALF; ++i) {
        const float first = head[i], second = head[i + HALF];
        head[i] = first * cosines[i] - second * sines[i];
        head[i + HALF] = second * cosines[i + HALF] + first * sines[i + HALF];
    }
}

// --- Attention --------------------------------------------------------------------------------------------------------
//
// A task is one key/value head and up to TOKENS neighbouring tokens of one slot: QUERIES queries over the same keys.

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
    Weight *answer(int64_t query, int64_t inputs) const {
        return step.attended + (first + query / GROUP) * inputs + (query_heads + query % GROUP) * HEAD_DIM;
    }
};

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
            const float fading = std::exp(largest[q] - now);
            largest[q] = now;
            for (int64_t column = visible; column < KEYS; ++column) score[column] = now;  // computed, but never used
            for (int64_t column = 0; column < KEYS; column += LANES)
                store(score + column, exponential(load(score + column) - now));
            total[q] *= fading;
            for (int64_t part = 0; part < PARTS; ++part) answer[q][part] *= fading;
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

constexpr bool ATTENDS_IN_LANES = PAIR_PRODUCTS && HEAD_DIM % 32 == 0 && GROUP <= LANES;
constexpr bool ARE_FEW = GROUP <= 8;  // the queries of one token: their lanes would be mostly empty

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
void score(const Weight *keys, const Weight *queries, float *scores) {
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

// 32 numbers of each value times the keys' weights, in blocks of 32 keys: `answers` [32][16].
void weigh(const Weight *values, const Weight *weights, int64_t blocks, float *answers) {
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
        _tile_stored(0, answers, LANES * sizeof(float));
        _tile_stored(1, answers + LANES * LANES, LANES * sizeof(float));
        return;
    }
#endif
    for (int64_t half = 0; half < 2; ++half)
        multiply_lanes(values + half * LANES * KEYS, KEYS, HEAD_DIM * KEYS, weights, blocks,
                       answers + half * LANES * LANES);
}

// The same by such products, with a lane per query. Scores are keys times queries, so the keys are read as they lie in the cache; answers
// are values times weights, with values that lie turned in the cache, 32 keys side by side (see `place`). The scores of
// the whole text are kept, in `room` [context][16], and become the weights in place.
void attend_in_lanes(const Task &task, int64_t inputs, float *room) {
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
        score(task.keys + key * HEAD_DIM, queries[0][0], room + key * LANES);
        for (int64_t k = key; k < key + LANES; ++k) {
            const Floats scores = load(room + k * LANES);
            largest = (Ints{} + int32_t(k) <= positions) & (Ints)(scores > largest) ? scores : largest;
        }
    }
    Floats total = {};
    const int64_t blocks = (length + KEYS - 1) / KEYS;
    Bits *weights = reinterpret_cast<Bits *>(room);  // [key / 2][16], two keys' weights in one number
    for (int64_t key = 0; key < blocks * KEYS; key += 2) {
        Bits both[2];
        for (int64_t k = key; k < key + 2; ++k) {
            Floats weight = exponential(load(room + k * LANES) - largest);
            weight = Ints{} + int32_t(k) <= positions ? weight : Floats{};
            total += weight;
            both[k - key] = rounded(weight);
        }
        weights[key / 2] = both[0] | both[1] << 16;
    }
    alignas(64) float answers[HEAD_DIM][LANES];
    for (int64_t first = 0; first < HEAD_DIM; first += 2 * LANES)
        weigh(task.values + first * KEYS, reinterpret_cast<Weight *>(room), blocks, answers[first]);
    for (int64_t i = 0; i < HEAD_DIM; ++i) store(answers[i], load(answers[i]) / total);
    for (int64_t q = 0; q < task.queries; ++q) {
        float row[HEAD_DIM];
        for (int64_t i = 0; i < HEAD_DIM; ++i) row[i] = answers[i][q];
        for (int64_t i = 0; i < HEAD_DIM; i += LANES) store(task.answer(q, inputs) + i, load(row + i));
    }
}

// Sixteen rows of `a`, in blocks of 32 inputs as above, times one row: added to `sums`, each of which is to be added up.
void multiply_by_row(const Weight *a, int64_t stride, int64_t step, const Weight *row, int64_t blocks, Floats *sums) {
    for (int64_t block = 0; block < blocks; ++block, a += step, row += KEYS) {
        const __m512bh inputs = (__m512bh)_mm512_loadu_si512(row);
        for (int64_t i = 0; i < LANES; ++i) {
            const Weight *from = a + i * stride;
            __builtin_prefetch(from + PAGE);
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

// One token's few queries, whose lanes would be mostly empty: a lane for each input instead, then for each key.
void attend_in_rows(const Task &task, int64_t inputs, float *room) {
    constexpr int64_t PARTS = HEAD_DIM / LANES, AT_ONCE = 4;  // blocks of values, which the first cache holds
    const int64_t length = task.length(), blocks = (length + KEYS - 1) / KEYS;
    const Ints columns = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Weight queries[GROUP][HEAD_DIM];
    Floats largest[GROUP];
    for (int64_t q = 0; q < GROUP; ++q) {
        for (int64_t i = 0; i < HEAD_DIM; i += LANES) store(queries[q] + i, load(task.query(q) + i));
        largest[q] = Floats{} - INFINITY;
    }
    for (int64_t key = 0; key < length; key += LANES)
        for (int64_t q = 0; q < GROUP; ++q) {
            Floats sums[LANES] = {};
            multiply_by_row(task.keys + key * HEAD_DIM, HEAD_DIM, KEYS, queries[q], HEAD_DIM / KEYS, sums);
            const Floats scores = add_up(sums);
            store(room + q * blocks * KEYS + key, scores);
            largest[q] = (columns + int32_t(key) < int32_t(length)) & (Ints)(scores > largest[q]) ? scores : largest[q];
        }
    float total[GROUP];
    for (int64_t q = 0; q < GROUP; ++q) {
        float *scores = room + q * blocks * KEYS, most = largest[q][0];
        for (int64_t lane = 1; lane < LANES; ++lane) most = largest[q][lane] > most ? largest[q][lane] : most;
        Floats totals = {};
        for (int64_t key = 0; key < blocks * KEYS; key += LANES) {
            Floats weights = exponential(load(scores + key) - most);
            weights = columns + int32_t(key) < int32_t(length) ? weights : Floats{};
            totals += weights;
            store(reinterpret_cast<Weight *>(scores) + key, weights);  // in place: half as long
        }
        total[q] = sum(totals);
    }
    Floats sums[PARTS][GROUP][LANES] = {};
    for (int64_t block = 0; block < blocks; block += AT_ONCE)
        for (int64_t part = 0; part < PARTS; ++part)
            for (int64_t q = 0; q < GROUP; ++q)
                multiply_by_row(task.values + (block * HEAD_DIM + part * LANES) * KEYS, KEYS, HEAD_DIM * KEYS,
                                reinterpret_cast<Weight *>(room + q * blocks * KEYS) + block * KEYS,
                                blocks - block < AT_ONCE ? blocks - block : AT_ONCE, sums[part][q]);
    for (int64_t q = 0; q < GROUP; ++q)
        for (int64_t part = 0; part < PARTS; ++part)
            store(task.answer(q, inputs) + part * LANES, add_up(sums[part][q]) / total[q]);
}
#endif

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

// Queries, keys and values are there: turn them, and put the latter two into the cache.
void place(const Model &model, const Layer &layer, const Step &step, int64_t token, int64_t head) {
    const int64_t heads = model.kv_heads * GROUP, position = step.positions[token];
    const float *cosines = model.cosines + position * HEAD_DIM, *sines = model.sines + position * HEAD_DIM;
    float *vector = step.qkv + token * layer.qkv.panel_count * PANEL + head * HEAD_DIM;
    const bool is_query = head < heads, is_key = !is_query && head < heads + model.kv_heads;
    if (is_query || is_key) {
        const float *norm = is_query ? layer.query_norm : layer.key_norm;
        if (norm) rms_norm(vector, norm, HEAD_DIM, model.epsilon, vector);
        rotate(vector, cosines, sines);
    }
    if (is_query) {
        for (int64_t i = 0; i < HEAD_DIM; ++i) vector[i] *= model.scale;
        return;
    }
    const int64_t kv_head = (head - heads) % model.kv_heads;
    const int64_t row = (step.slots[token] * model.kv_heads + kv_head) * model.context * HEAD_DIM;
    if (!is_key && ATTENDS_IN_LANES) {  // values: [context / 32][HEAD_DIM][32]
        Weight value[HEAD_DIM];
        for (int64_t i = 0; i < HEAD_DIM; i += LANES) store(value + i, load(vector + i));
        Weight *to = layer.values + row + position / KEYS * KEYS * HEAD_DIM + position % KEYS;
        for (int64_t i = 0; i < HEAD_DIM; ++i) to[i * KEYS] = value[i];
        return;
    }
    Weight *cache = (is_key ? layer.keys : layer.values) + row + position * HEAD_DIM;
    for (int64_t i = 0; i < HEAD_DIM; i += LANES) store(cache + i, load(vector + i));
}

void run_layer(const Model &model, const Layer &layer, const Step &step) {
    const int64_t tokens = step.token_count, hidden = model.hidden, all_heads = model.kv_heads * (GROUP + 2);
    const auto add_to_hidden = [&](int64_t token, int64_t panel, const float *sums) {
        for (int64_t i = 0; i < PANEL && panel * PANEL + i < hidden; ++i)
            step.hidden[token * hidden + panel * PANEL + i] += sums[i];
    };
#pragma omp for schedule(static)
    for (int64_t token = 0; token < tokens; ++token)
        rms_norm(step.hidden + token * hidden, layer.input_norm, hidden, model.epsilon,
                 step.normed + token * layer.qkv.inputs);

    product(layer.qkv, step.normed, tokens, [&](int64_t token, int64_t panel, const float *sums) {
        float *to = step.qkv + (token * layer.qkv.panel_count + panel) * PANEL;
        for (int64_t i = 0; i < PANEL; ++i) to[i] = sums[i] + (layer.qkv.bias ? layer.qkv.bias[panel * PANEL + i] : 0);
    });

#pragma omp for schedule(static)
    for (int64_t i = 0; i < tokens * all_heads; ++i) place(model, layer, step, i / all_heads, i % all_heads);

#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tokens * model.kv_heads; ++i) {
        const int64_t token = i / model.kv_heads;
        if (step.neighbours[token] == 0) continue;
        const Task task(model, layer, step, token, step.neighbours[token], i % model.kv_heads);
#if PAIR_PRODUCTS
        if (ATTENDS_IN_LANES) {
            float *room = step.scores + omp_get_thread_num() * model.context * LANES;
            if (ARE_FEW && task.tokens == 1 && !has_tiles)
                attend_in_rows(task, layer.output.inputs, room);
            else
                attend_in_lanes(task, layer.output.inputs, room);
            continue;
        }
#endif
        attend_with_vectors(task, layer.output.inputs);
    }

    product(layer.output, step.attended, tokens, add_to_hidden);

#pragma omp for schedule(static)
    for (int64_t token = 0; token < tokens; ++token)
        rms_norm(step.hidden + token * hidden, layer.mlp_norm, hidden, model.epsilon,
                 step.normed + token * layer.gate_up.inputs);

    product(layer.gate_up, step.normed, tokens, [&](int64_t token, int64_t panel, const float *sums) {
        const Floats gate = load(sums), up = load(sums + LANES);
        store(step.activated + token * layer.down.inputs + panel * LANES, gate / (1 + exponential(-gate)) * up);
    });

    product(layer.down, step.activated, tokens, add_to_hidden);
}

}  // namespace

// Leaves the logits in step.logits, and the new tokens' keys and values in the cache.
extern "C" void decoder_step(const Model *model, const Step *step) {
    const int64_t hidden = model->hidden;
    find_neighbours(*step);
#pragma omp parallel num_threads(step->threads)
    {
#if TILES
        if (has_tiles) configure_tiles();
#endif
#pragma omp for schedule(static)
        for (int64_t token = 0; token < step->token_count; ++token)
            for (int64_t i = 0; i < hidden; ++i) {
                const Weight *from = model->embedding + step->token_ids[token] * hidden;
                step->hidden[token * hidden + i] = to_float(from[i]);
            }

        for (int64_t i = 0; i < model->layer_count; ++i) run_layer(*model, model->layers[i], *step);

#pragma omp for schedule(static)
        for (int64_t row = 0; row < step->sampled_count; ++row)
            rms_norm(step->hidden + step->sampled[row] * hidden, model->final_norm, hidden, model->epsilon,
                     step->normed + row * model->head.inputs);

        product(model->head, step->normed, step->sampled_count, [&](int64_t row, int64_t panel, const float *sums) {
            for (int64_t i = 0; i < PANEL && panel * PANEL + i < model->vocabulary; ++i)
                step->logits[row * model->vocabulary + panel * PANEL + i] = sums[i];
        });
#if TILES
        if (has_tiles) _tile_release();
#endif
    }
}
