// One step of a Llama-type decoder over the slots of a KV cache: token ids in, logits out, one call.
//
// A step at one stream reads every weight once and computes next to nothing, so all that counts is to read without a
// pause: no interpreter between two operators, one parallel region for all layers, weights that lie in the order in
// which they are read. Compiled when the server starts (build.py), for the machine it runs on; decoder.py packs the
// weights and calls `decoder_step`. What differs from processor to processor is in products.hpp and attention.hpp.

#include <omp.h>
#ifdef __linux__
#include <sched.h>
#endif

#include "attention.hpp"
#include "experts.hpp"
#include "numbers.hpp"
#include "products.hpp"
#include "structures.hpp"

namespace {

// Squares are added up lane by lane, so in one order whatever the address of x is.
template <class To>
void rms_norm(const float *x, const float *weights, int64_t size, double epsilon, To *to) {
    const int64_t whole = size / LANES * LANES, rest = size - whole;
    float last[LANES] = {}, last_weights[LANES] = {};
    memcpy(last, x + whole, rest * sizeof(float));
    memcpy(last_weights, weights + whole, rest * sizeof(float));
    Floats squares = load(last) * load(last);
    for (int64_t i = 0; i < whole; i += LANES) squares = multiply_add(load(x + i), load(x + i), squares);
    const float factor = 1 / __builtin_sqrt(sum(squares) / size + epsilon);
    for (int64_t i = 0; i < whole; i += LANES) store(to + i, load(x + i) * factor * load(weights + i));
    To normed[LANES];
    store(normed, load(last) * factor * load(last_weights));
    memcpy(to + whole, normed, rest * sizeof(To));
}

void embed(const Model &model, int64_t token_id, float *to) {
    if (model.embedding) {
        const Weight *from = model.embedding + token_id * model.hidden;
        for (int64_t i = 0; i < model.hidden; ++i) to[i] = to_float(from[i]);
    }
#if FORMATS
    else {
        const uint8_t *from = model.embedding_rows + token_id * model.embedding_row_size;
        with_format(model.embedding_format, [&](auto format) { read_row<decltype(format)>(from, model.hidden, to); });
    }
#endif
    const float scale = model.embedding_scale;
    for (int64_t i = 0; i < model.hidden; ++i) to[i] *= scale;
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

// Queries, keys and values are there: turn them, and put the latter two into the cache.
void rope_and_store(const Model &model, const Layer &layer, const Step &step, int64_t token, int64_t head) {
    const int64_t heads = model.kv_heads * GROUP, position = step.positions[token];
    const float *cosines = layer.cosines + position * HEAD_DIM, *sines = layer.sines + position * HEAD_DIM;
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
    const Head cached(model, layer, is_key ? layer.keys : layer.values, step, token, kv_head);
    Weight numbers[HEAD_DIM];
    for (int64_t i = 0; i < HEAD_DIM; i += LANES) store(numbers + i, load(vector + i));
    if (!ATTENDS_IN_PAIRS) {
        memcpy(cached.at(position), numbers, sizeof numbers);
    } else if (is_key) {  // [PAGE_TOKENS / 16][HEAD_DIM / 2][16][PAIR]
        Weight *to = cached.at(position / LANES * LANES) + position % LANES * PAIR;
        for (int64_t i = 0; i < HEAD_DIM; i += PAIR) memcpy(to + i * LANES, numbers + i, PAIR * sizeof(Weight));
    } else {  // [PAGE_TOKENS / 2][HEAD_DIM][PAIR]
        Weight *to = cached.at(position / PAIR * PAIR) + position % PAIR;
        for (int64_t i = 0; i < HEAD_DIM; ++i) to[i * PAIR] = numbers[i];
    }
}

// The hidden states of the first tokens, normed for a product of so many inputs.
const Activation *normed(const Model &model, const Step &step, int64_t tokens, const float *weights, int64_t inputs) {
    const bool is_own = each_for_itself(tokens, step);
    Activation *rows = step.normed + (is_own ? omp_get_thread_num() * tokens * inputs : 0);
    const auto norm = [&](int64_t token) {
        rms_norm(step.hidden + token * model.hidden, weights, model.hidden, model.epsilon, rows + token * inputs);
    };
    if (is_own) {
        for (int64_t token = 0; token < tokens; ++token) norm(token);
    } else {
#pragma omp for schedule(static)
        for (int64_t token = 0; token < tokens; ++token) norm(token);
    }
    return rows;
}

// The first half of a layer: what each token takes from those before it, into `step.attended`.
void run_attention(const Model &model, const Layer &layer, const Step &step) {
    const int64_t tokens = step.token_count, all_heads = model.kv_heads * (GROUP + 2);
    const Activation *inputs = normed(model, step, tokens, layer.input_norm, layer.qkv.inputs);
    product(layer.qkv, inputs, tokens, step, [&](int64_t token, int64_t panel, const float *sums) {
        memcpy(step.qkv + (token * layer.qkv.panel_count + panel) * PANEL, sums, PANEL * sizeof(float));
    });

#pragma omp for schedule(static)
    for (int64_t i = 0; i < tokens * all_heads; ++i) rope_and_store(model, layer, step, i / all_heads, i % all_heads);

    const int64_t tasks = tokens * model.kv_heads;
    const auto keys_of = [&](int64_t task) {
        return Head(model, layer, layer.keys, step, task / model.kv_heads, task % model.kv_heads);
    };
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < tasks; ++i) {
        const int64_t token = i / model.kv_heads;
        if (step.neighbours[token] == 0) continue;
        const Head next = keys_of(min(i + step.threads, tasks - 1));  // if all threads are equally fast
        const Task task(model, layer, step, token, step.neighbours[token], i % model.kv_heads, next);
        attend(task, step.scores + omp_get_thread_num() * model.context * LANES);
    }
}

// Add a product to the hidden states of the first tokens; or its norm, if it has one of its own.
void add_product(const Model &model, const Matrix &matrix, const Activation *inputs, int64_t tokens, const float *norm,
                 const Step &step) {
    const int64_t hidden = model.hidden;
    product(matrix, inputs, tokens, step, [&](int64_t token, int64_t panel, const float *sums) {
        float *to = (norm ? step.added : step.hidden) + token * hidden + panel * PANEL;
        const int64_t count = min(PANEL, hidden - panel * PANEL), whole = count / LANES * LANES;
        if (norm) return void(memcpy(to, sums, count * sizeof(float)));
        for (int64_t i = 0; i < whole; i += LANES) store(to + i, load(to + i) + load(sums + i));
        for (int64_t i = whole; i < count; ++i) to[i] += sums[i];
    });
    if (!norm) return;
#pragma omp for schedule(static)
    for (int64_t token = 0; token < tokens; ++token) {
        float *added = step.added + token * hidden, *to = step.hidden + token * hidden;
        rms_norm(added, norm, hidden, model.epsilon, added);
        for (int64_t i = 0; i < hidden; ++i) to[i] += added[i];
    }
}

// What is between the MLP's matrices: up times an activation of the gate. That is SiLU, x / (1 + e^-x), or GELU in its
// form with tanh, which is x / (1 + e^-2t) for 0.5 x (1 + tanh t). Or both have a limit, and 1 is added to up.
Floats gated(const Model &model, Floats gate, Floats up) {
    Floats twice = gate;
    if (model.is_gelu) twice = 1.59576912f * (gate + 0.044715f * gate * gate * gate);  // 2 * sqrt(2 / pi)
    if (model.gate_limit) {
        const Floats limit = broadcast(model.gate_limit);
        gate = select(gate > limit, limit, gate);
        up = 1 + select(up > limit, limit, select(up < -limit, -limit, up));
        twice = gate * float(model.gate_factor);
    }
    return gate / (1 + exponential(-twice)) * up;
}

#if EXPERTS
// The MLP of a layer with experts.
template <class Activate>
void run_experts(const Model &model, const Layer &layer, const Step &step, const Activation *inputs, int64_t tokens,
                 Activate activate) {
    const Groups groups = route(model, layer, step, inputs, tokens);
    product(layer.gate_up, step.expert_inputs, groups, layer.gate_up.panel_count / model.experts, step, activate);
    const int64_t panels = layer.down.panel_count / model.experts;
    product(layer.down, step.expert_activated, groups, panels, step,
            [&](int64_t row, int64_t panel, const float *sums) {
                memcpy(step.expert_outputs + row * model.hidden + panel * PANEL, sums, PANEL * sizeof(float));
            });
#pragma omp for schedule(static)
    for (int64_t token = 0; token < tokens; ++token) add_outputs(model, step, token);
}
#endif

// The second half, for the first tokens: each goes on by itself.
void run_mlp(const Model &model, const Layer &layer, const Step &step, int64_t tokens) {
    add_product(model, layer.output, step.attended, tokens, layer.attended_norm, step);

    const Activation *inputs = normed(model, step, tokens, layer.mlp_norm, layer.gate_up.inputs);
    Activation *activated = layer.router ? step.expert_activated : step.activated;
    const auto activate = [&](int64_t row, int64_t panel, const float *sums) {
        store(activated + row * layer.down.inputs + panel * LANES, gated(model, load(sums), load(sums + LANES)));
    };
#if EXPERTS
    if (layer.router) return run_experts(model, layer, step, inputs, tokens, activate);
#endif
    product(layer.gate_up, inputs, tokens, step, activate);
    add_product(model, layer.down, step.activated, tokens, layer.activated_norm, step);
}

// Keep the calling thread on a processor of its own (why: affinity.py). Each step asks again: OpenMP ends threads and
// starts others when a loop elsewhere needs fewer of them.
void stay_on_own(const int64_t *processors) {
#ifdef __linux__
    if (!processors) return;
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(processors[omp_get_thread_num()], &own);
    sched_setaffinity(0, sizeof own, &own);  // where that is refused, the system places the thread as before
#endif
}

// Give each token whose logits are wanted a place among these, and return how many there are.
int64_t find_places(const Step &step) {
    for (int64_t token = 0; token < step.token_count; ++token) step.places[token] = -1;
    for (int64_t row = 0; row < step.sampled_count; ++row) step.places[step.sampled[row]] = 0;
    int64_t count = 0;
    for (int64_t token = 0; token < step.token_count; ++token)
        if (step.places[token] == 0) step.places[token] = count++;
    return count;
}

// Move what is known of the tokens whose logits are wanted to their places, in front of all others.
void keep_wanted(const Model &model, const Layer &layer, const Step &step) {
    const int64_t hidden = model.hidden, attended = layer.output.inputs;
#pragma omp single
    for (int64_t token = 0; token < step.token_count; ++token) {
        const int64_t place = step.places[token];
        if (place < 0 || place == token) continue;
        memcpy(step.hidden + place * hidden, step.hidden + token * hidden, hidden * sizeof *step.hidden);
        memcpy(step.attended + place * attended, step.attended + token * attended, attended * sizeof *step.attended);
    }
}

}  // namespace

// Leaves the logits in step.logits, and the new tokens' keys and values in the cache.
extern "C" void decoder_step(const Model *model, const Step *step) {
    const int64_t hidden = model->hidden;
    find_neighbours(*step);
    const int64_t wanted = find_places(*step);
#pragma omp parallel num_threads(step->threads)
    {
        stay_on_own(step->processors);
#if TILES
        if (has_tiles) configure_tiles();
#endif
#pragma omp for schedule(static)
        for (int64_t token = 0; token < step->token_count; ++token)
            embed(*model, step->token_ids[token], step->hidden + token * hidden);

        for (int64_t i = 0; i < model->layer_count; ++i) {
            const Layer &layer = model->layers[i];
            const bool is_last = i == model->layer_count - 1;
            run_attention(*model, layer, *step);
            if (is_last) keep_wanted(*model, layer, *step);  // all others needed no more than their keys and values
            run_mlp(*model, layer, *step, is_last ? wanted : step->token_count);
        }

#pragma omp for schedule(static)
        for (int64_t row = 0; row < step->sampled_count; ++row)
            rms_norm(step->hidden + step->places[step->sampled[row]] * hidden, model->final_norm, hidden,
                     model->epsilon, step->normed + row * model->head.inputs);

        const auto to_logits = [&](int64_t row, int64_t panel, const float *sums) {
            const int64_t first = panel * PANEL, count = min(PANEL, model->vocabulary - first);
            float capped[PANEL];
            memcpy(capped, sums, sizeof capped);
            for (int64_t i = 0; model->logit_cap && i < PANEL; i += LANES) approach(capped + i, model->logit_cap);
            memcpy(step->logits + row * model->vocabulary + first, capped, count * sizeof(float));
        };
        product(model->head, step->normed, step->sampled_count, *step, to_logits);
#if TILES
        if (has_tiles) _tile_release();
#endif
    }
}

// The sizes by which packing.py lays out what is handed over, in the order of its LAYOUT.
extern "C" const int64_t layout_sizes[] = {LANES,         PANEL,          BLOCK,         LANES,
                                           sizeof(Strip), sizeof(Matrix), sizeof(Layer), sizeof(Group),
                                           sizeof(Model), sizeof(Step),   sizeof(Share)};

// How keys and values lie in the cache: see attention.hpp.
extern "C" bool attends_in_pairs() { return ATTENDS_IN_PAIRS; }

// Whether a single row is multiplied in another way than several, so that the last bits differ.
extern "C" bool depends_on_rows() { return has_tiles; }

#if FORMATS
extern "C" const int64_t input_bytes = Tile::ROOM;

extern "C" int64_t strip_size(int64_t format, int64_t inputs) {  // bytes, packed
    int64_t size = 0;
    with_format(format, [&](auto f) { size = Strips<decltype(f)>::size(inputs); });
    return size;
}

extern "C" void pack_strips(const Strip *strips, int64_t count, int64_t inputs, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; ++i)
        with_format(strips[i].format, [&](auto f) {
            Strips<decltype(f)>::pack(strips[i].blocks, strips[i].rows, inputs, strips[i].packed);
        });
}

// For what has to be seen without a step: a strip as floats [inputs][16], a row of blocks as floats.
extern "C" void widen(const Strip *strip, int64_t inputs, float *to) {
    with_format(strip->format, [&](auto f) { widen_strip<decltype(f)>(strip->packed, inputs, LANES, to); });
}
extern "C" void read_blocks(int64_t format, const uint8_t *from, int64_t inputs, float *to) {
    with_format(format, [&](auto f) { read_row<decltype(f)>(from, inputs, to); });
}

// x [rows][inputs] times a matrix, as in a step: `to` [rows][32 * panel_count].
extern "C" void multiply_rows_by(const Matrix *matrix, const Step *step, const float *x, int64_t rows, float *to) {
#pragma omp parallel num_threads(step->threads)
    product(*matrix, x, rows, *step, [&](int64_t row, int64_t panel, const float *sums) {
        memcpy(to + (row * matrix->panel_count + panel) * PANEL, sums, PANEL * sizeof(float));
    });
}
#endif
