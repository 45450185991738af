// A layer's MLP where there are many, its experts: a router sends each token through a few of them.
//
// Of all experts, gate and up are one matrix, down is another. The rows of those tokens that go through the same expert
// are brought together, so that each weight is read once a step. What a token gets does not depend on the others: its
// scores and its rows are computed as if it were alone, and added up in the order of its experts, the best one first.

#pragma once

#include "grouped_products.hpp"

namespace {

constexpr int64_t SCORED_TOGETHER = 4;  // experts: so the inputs are loaded once for all of them

// The router's scores of a token for some experts, from one on.
void score(const Model &model, const Layer &layer, const Step &step, const Activation *x, int64_t token,
           int64_t expert) {
    const float *router = layer.router + expert * model.hidden;
    Floats sums[SCORED_TOGETHER] = {};
    for (int64_t i = 0; i < model.hidden; i += LANES) {
        const Floats inputs = load(x + i);
        for (int64_t other = 0; other < SCORED_TOGETHER; ++other)
            sums[other] = multiply_add(inputs, load(router + other * model.hidden + i), sums[other]);
    }
    float *scores = step.expert_scores + token * model.padded_experts;
    for (int64_t other = 0; other < min(SCORED_TOGETHER, model.experts - expert); ++other)
        scores[expert + other] = sum(sums[other]) + (layer.router_bias ? layer.router_bias[expert + other] : 0);
}

// Choose the experts with the highest scores; of two with the same, the first. Their weights are a softmax over them,
// or over all experts. (Room behind the last expert has scores that are as low as can be, and weights of next to 0.)
void choose(const Model &model, const Step &step, int64_t token) {
    float *scores = step.expert_scores + token * model.padded_experts;
    float *weights = step.expert_weights + token * model.padded_experts;
    int64_t *chosen = step.experts + token * model.experts_per_token;
    float best = scores[0];
    for (int64_t i = 1; i < model.experts; ++i) best = max(best, scores[i]);
    Floats of_all = {}, of_chosen = {};
    for (int64_t i = 0; i < model.padded_experts; i += LANES) {
        of_all += exponential(load(scores + i) - best);
        store(weights + i, broadcast(-INFINITE));
    }
    for (int64_t rank = 0; rank < model.experts_per_token; ++rank) {
        int64_t next = 0;
        for (int64_t i = 1; i < model.experts; ++i) next = scores[i] > scores[next] ? i : next;
        chosen[rank] = next;
        weights[rank] = scores[next];
        scores[next] = -INFINITE;
    }
    for (int64_t i = 0; i < model.padded_experts; i += LANES) {
        const Floats shares = exponential(load(weights + i) - best);
        store(weights + i, shares);
        of_chosen += shares;
    }
    const float total = sum(model.weights_add_up ? of_chosen : of_all);
    for (int64_t i = 0; i < model.padded_experts; i += LANES) store(weights + i, load(weights + i) / total);
}

// Give each token a row for each of its experts, so that the rows of an expert lie side by side: `step.expert_rows`.
// The groups are those of experts that have any.
void group(const Model &model, const Step &step, int64_t tokens) {
    const int64_t rows = tokens * model.experts_per_token;
    Group *groups = step.groups;
    for (int64_t expert = 0; expert <= model.experts; ++expert) groups[expert] = {expert, 0, 0};
    for (int64_t row = 0; row < rows; ++row) ++groups[step.experts[row]].rows;
    for (int64_t expert = 1; expert < model.experts; ++expert)
        groups[expert].first = groups[expert - 1].first + groups[expert - 1].rows;
    for (int64_t row = 0; row < rows; ++row) step.expert_rows[row] = groups[step.experts[row]].first++;
    int64_t count = 0;
    for (int64_t expert = 0; expert < model.experts; ++expert) {
        const Group found = groups[expert];
        if (found.rows > 0) groups[count++] = {expert, found.first - found.rows, found.rows};
    }
    groups[count].rows = 0;
}

// Choose experts for each token, and bring together what goes into each: `step.expert_inputs`.
Groups route(const Model &model, const Layer &layer, const Step &step, const Activation *x, int64_t tokens) {
    const int64_t inputs = layer.gate_up.inputs, each = model.experts_per_token;
    const int64_t parts = (model.experts + SCORED_TOGETHER - 1) / SCORED_TOGETHER;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < tokens * parts; ++i)
        score(model, layer, step, x + i / parts * inputs, i / parts, i % parts * SCORED_TOGETHER);
#pragma omp for schedule(static)
    for (int64_t token = 0; token < tokens; ++token) choose(model, step, token);
#pragma omp single
    group(model, step, tokens);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < tokens * each; ++row)
        memcpy(step.expert_inputs + step.expert_rows[row] * inputs, x + row / each * inputs, inputs * sizeof *x);
    return Groups(step.groups);
}

// Add to a token's hidden states what its experts have made of it.
void add_outputs(const Model &model, const Step &step, int64_t token) {
    const int64_t first = token * model.experts_per_token;
    float *to = step.hidden + token * model.hidden;
    for (int64_t i = 0; i < model.hidden; i += LANES) {
        Floats total = {};
        for (int64_t rank = 0; rank < model.experts_per_token; ++rank) {
            const float *outputs = step.expert_outputs + step.expert_rows[first + rank] * model.hidden;
            const float weight = step.expert_weights[token * model.padded_experts + rank];
            total = multiply_add(broadcast(weight), load(outputs + i), total);
        }
        store(to + i, load(to + i) + total);
    }
}

}  // namespace
