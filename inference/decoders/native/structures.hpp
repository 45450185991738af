// What decoder.py hands over: its ctypes structures mirror these, field by field.

#pragma once

#include "numbers.hpp"

namespace {

struct Matrix {
    const Stored *panels;  // [panel][input / PAIR][output within the panel: 32][PAIR], inputs filled up with zeros
    const float *scales;   // [panel * 32], what an output's whole numbers are to be multiplied with; null unless INT8
    const float *bias;     // [panel * 32], or null
    int64_t inputs, panel_count;
};

struct Layer {
    Matrix qkv, output, gate_up, down;  // a panel of gate_up: 16 outputs of the gate, the same 16 of up
    const float *input_norm, *mlp_norm, *query_norm, *key_norm;  // the last two are null in most models
    Weight *keys, *values;  // [slot][kv_head][context][HEAD_DIM]; values may be turned, see `place` in decoder.cpp
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
    int64_t token_count, sampled_count, threads, wide_panel_size;
    // Room to work in.
    int64_t *neighbours;                     // [tokens], how many attend together from this one on; 0: with another
    float *hidden;                           // [tokens][hidden]
    float *qkv;                              // [tokens][qkv.panel_count * 32]
    Weight *normed, *attended, *activated;   // [tokens, in whole 32s][inputs of the product that reads it]
    float *scores;                           // [threads][context][16]
    Weight *wide_panel;                      // [threads][wide_panel_size], to widen a panel in; empty unless INT8
    float *logits;                           // [sampled_count][vocabulary]
};

}  // namespace
