// What decoder.py hands over: its ctypes structures mirror these, field by field.

#pragma once

#include "numbers.hpp"

namespace {

struct Share;

constexpr int64_t PANEL = 2 * LANES, BLOCK = 32;  // outputs, and rows, that are computed together
constexpr int64_t PAGE = 4096;  // bytes: by itself, a processor asks for memory ahead to the end of a page at most

struct Strip {              // sixteen outputs of a quantized matrix
    int64_t format;         // its number in GGML
    const uint8_t *blocks;  // of the first output; the others follow
    int64_t rows;           // outputs that there are blocks for; the rest is zeros
    uint8_t *packed;        // see strips.hpp
};

struct Matrix {
    const Weight *panels;  // [panel][input / PAIR][output within the panel: 32][PAIR], inputs filled up with zeros
    const Strip *strips;   // [2 * panel]; null unless the matrix is quantized, then there are no panels
    const float *bias;     // [panel * 32], in the order of the panels' outputs; or null
    int64_t inputs, panel_count;
    int64_t scaled_inputs;  // how many share a scale when they are rounded: 256 with strips in "K" formats, else 32
};

struct Layer {
    Matrix qkv, output, gate_up, down;  // a panel of gate_up: 16 outputs of the gate, the same 16 of up
    const float *input_norm, *mlp_norm;
    const float *query_norm, *key_norm, *attended_norm, *activated_norm;  // null in most models
    const float *cosines, *sines;                                         // [context][HEAD_DIM]
    Weight *keys, *values;                                                // in the cache's first page: see `Head`
    int64_t window;       // how many positions a token looks back, itself included
    const float *sinks;   // [heads], a score for each that takes its share of the weights, and has no value; or null
    const float *router;  // [experts, in whole 4s][hidden]; null: there is one MLP, for all tokens. Else gate_up and
                          // down are those of all experts, one below the other
    const float *router_bias;  // [experts], or null
};

struct Group {  // the rows that go through the same expert
    int64_t expert, first, rows;
};

struct Model {
    const Layer *layers;
    Matrix head;
    const Weight *embedding;        // [vocabulary][hidden], or null if there are
    const uint8_t *embedding_rows;  // rows of quantized blocks, of so many bytes and this format
    int64_t embedding_row_size, embedding_format;
    const float *final_norm;
    int64_t layer_count, hidden, vocabulary, kv_heads, context;
    const int64_t *pages;             // [slot][slot_pages], the numbers of the pages that hold its text
    int64_t slot_pages, page_stride;  // the latter from one page of the cache to the next
    double epsilon, scale, embedding_scale;
    double score_cap, logit_cap;  // bounds that these approach; 0: none
    int64_t is_gelu;
    double gate_limit, gate_factor;                      // of an MLP with limits; 0: none
    int64_t experts, padded_experts, experts_per_token;  // of layers with a router; the second in whole 16s
    int64_t weights_add_up;                              // those of a token's experts: to 1
};

struct Step {
    const int64_t *token_ids, *positions, *slots;  // [tokens]
    const int64_t *sampled;                        // [sampled_count], the tokens whose logits are wanted
    int64_t token_count, sampled_count, threads, widened_size;
    const int64_t *processors;  // [threads], the one that each stays on; or null
    // Room to work in.
    int64_t *neighbours;                        // [tokens], how many attend together from this one on; 0: with another
    int64_t *places;                            // [tokens], the row of one whose logits are wanted among these; or -1
    float *hidden;                              // [tokens][hidden]
    float *added;                               // [tokens][hidden], what is normed before it is added to them
    float *qkv;                                 // [tokens][qkv.panel_count * 32]
    Activation *normed, *attended, *activated;  // [tokens, in whole 32s][inputs of the product that reads it]
    float *scores;                              // [threads][context][16]
    uint8_t *inputs;  // [tokens, in whole 32s][3 * inputs], a product's as its kernel reads them, if not as they are
    Weight *widened;  // [threads][widened_size], for a quantized panel as floats, or with its codes unpacked
    float *logits;    // [sampled_count][vocabulary]
    Share *shares;    // [threads], of a product's panels: see shares.hpp
    // The same for layers with experts. A row is what one token has of one expert.
    float *expert_scores, *expert_weights;  // [tokens][padded_experts]; weights in the order of the token's experts
    int64_t *experts, *expert_rows;         // [tokens][experts_per_token], the best first; and which row is whose
    Group *groups;                          // [experts + 1]; one without rows ends them
    Activation *expert_inputs;              // [rows][hidden]
    Activation *expert_activated;           // [rows][inputs of an expert's down]
    float *expert_outputs;                  // [rows][hidden]
};

}  // namespace
