// Chooses a token for each row of logits: the largest, or a random one of those that top_k, top_p and min_p leave.
//
// A whole vocabulary is read a few times and is never sorted: at 16 streams, sorting takes longer than a layer of the
// model. Rows share nothing, so a row's token is the same whatever the other rows ask for. choose.py compiles and calls
// this; draw.py and adjustments.py say the same in torch, and the tests hold one against the other.

#include "cut.hpp"
#include "weights.hpp"

namespace {

constexpr int64_t BROKEN = -1;  // instead of a token id

struct Row {                                    // mirrored by choose.py
    double temperature, top_p, min_p, uniform;  // temperature 0: take the largest; top_p 1: off
    double repetition, presence, frequency;     // penalties
    int64_t top_k;                              // 0: off
    const int64_t *seen_ids, *seen_counts;      // what the penalties apply to
    const int64_t *bias_ids;
    const float *biases;
    const int64_t *banned_ids;
    const uint32_t *mask;  // a bit per token, the lowest first; null if every token is allowed
    int64_t seen_size, bias_size, banned_size;
    bool is_truncated() const { return top_k > 0 || top_p < 1; }
    bool changes_logits() const { return seen_size || bias_size || banned_size || mask; }
};

struct Peak {
    float value;
    int64_t at;
};

// The largest logit and the first place where it is; at BROKEN if one is NaN, or if the largest is not finite.
Peak find_peak(const float *logits, int64_t size) {
    float largest = NEGATIVE_INFINITY;
    int64_t block_of_largest = 0;
    Ints is_nan = {};
    bool some_is_nan = false;
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        const int64_t end = min(begin + BLOCK, size);
        Floats most = broadcast(NEGATIVE_INFINITY);
        int64_t i = begin;
        for (; i + LANES <= end; i += LANES) {
            const Floats x = load(logits + i);
            most = select(x > most, x, most);
            is_nan |= x != x;
        }
        float here = most[0];
        for (int64_t lane = 1; lane < LANES; ++lane) here = max(here, most[lane]);
        for (; i < end; ++i) {
            here = max(here, logits[i]);
            some_is_nan |= logits[i] != logits[i];
        }
        if (here > largest) {
            largest = here;
            block_of_largest = begin;
        }
    }
    for (int64_t lane = 0; lane < LANES; ++lane) some_is_nan |= is_nan[lane] != 0;
    if (some_is_nan || !__builtin_isfinite(largest)) return {largest, BROKEN};
    int64_t at = block_of_largest;
    while (logits[at] != largest) ++at;
    return {largest, at};
}

// Mask, bans, biases, then penalties.
void adjust(float *logits, int64_t size, const Row &row) {
    if (row.mask)
        for (int64_t i = 0; i < size; ++i) logits[i] = row.mask[i / 32] >> (i % 32) & 1 ? logits[i] : NEGATIVE_INFINITY;
    for (int64_t i = 0; i < row.banned_size; ++i) logits[row.banned_ids[i]] = NEGATIVE_INFINITY;
    for (int64_t i = 0; i < row.bias_size; ++i) logits[row.bias_ids[i]] += row.biases[i];
    const float repetition = row.repetition;
    for (int64_t i = 0; i < row.seen_size; ++i) {
        float &logit = logits[row.seen_ids[i]];
        const float amount = row.frequency * row.seen_counts[i] + (row.seen_counts[i] > 0 ? row.presence : 0);
        logit = (logit > 0 ? logit / repetition : logit * repetition) - amount;
    }
}

// What top_k and then top_p leave.
Cut truncate(const Row &row, int64_t size, Scratch &scratch) {
    const double mass = total(scratch.masses);
    find_notable(mass, scratch);
    if (row.top_k == 0 || row.top_k >= size)
        return find_cut<By::MASS>(scratch.all, scratch.notable, row.top_p * mass, scratch);
    const Cut by_count = find_cut<By::COUNT>(scratch.all, scratch.notable, row.top_k, scratch);
    if (row.top_p >= 1) return by_count;
    float *kept = scratch.kept;
    const float above = __builtin_nextafterf(by_count.least, ABOVE_ALL);
    int64_t count = copy_between(scratch.with(by_count.least), above, ABOVE_ALL, kept);
    for (int64_t ties = min(by_count.ties, row.top_k - count); ties > 0; --ties) kept[count++] = by_count.least;
    double mass_kept = 0;
    for (int64_t i = 0; i < count; ++i) mass_kept += kept[i];
    for (; count % LANES; ++count) kept[count] = 0;
    const Vectors of_kept = scratch.first(kept, count);
    return find_cut<By::MASS>(of_kept, of_kept, row.top_p * mass_kept, scratch);
}

// Take what is cut out of the blocks' masses.
void apply(const Cut &cut, Scratch &scratch) {
    scratch.masses.fill(0);
    scratch.ties.fill(0);
    int64_t ties = cut.ties;
    const Vectors vectors = scratch.with(cut.least);
    for (int64_t i = 0; i < vectors.count;) {
        const int64_t block = vectors.places[i] / BLOCK, end = (block + 1) * BLOCK;
        Floats above = {};
        Ints equal = {};
        for (; i < vectors.count && vectors.places[i] < end; ++i) {
            const Floats x = load(vectors.numbers + vectors.places[i]);
            above += select(x > cut.least, x, Floats{});
            equal -= x == cut.least;
        }
        const int64_t equals = sum(to_floats(equal));
        scratch.ties[block] = min(equals, ties);
        ties -= scratch.ties[block];
        scratch.masses[block] = sum(above) + double(scratch.ties[block]) * cut.least;
    }
}

// Call `take` with the place of each weight of a block that is kept, in turn, until it returns false.
template <class Take>
void for_kept(const float *weights, const Cut &cut, int64_t ties, Take take) {
    for (int64_t i = 0; i < BLOCK; ++i) {
        const bool is_kept = weights[i] > cut.least || (weights[i] == cut.least && ties-- > 0);
        if (is_kept && !take(i)) return;
    }
}

// The token in whose share of all the mass `uniform` falls; tokens follow one another by their ids.
int64_t draw(double uniform, const Cut &cut, const Scratch &scratch) {
    double target = uniform * total(scratch.masses);
    int64_t block = 0, last = scratch.masses.size - 1;
    while (scratch.masses[last] == 0) --last;
    while (block < last && target >= scratch.masses[block]) target -= scratch.masses[block++];
    const float *weights = scratch.weights + block * BLOCK;
    // Token by token, the block's mass is rounded otherwise: what lay within it must not lie behind it now.
    double whole = 0;
    for_kept(weights, cut, scratch.ties[block], [&](int64_t i) { return whole += weights[i], true; });
    target = min(target * whole / scratch.masses[block], __builtin_nextafter(whole, 0));
    double mass = 0;
    int64_t token = 0;
    for_kept(weights, cut, scratch.ties[block], [&](int64_t i) { return mass += weights[token = i], mass <= target; });
    return block * BLOCK + token;
}

int64_t choose_token(float *logits, int64_t size, const Row &row, Scratch &scratch) {
    Peak peak = find_peak(logits, size);
    if (peak.at != BROKEN && row.changes_logits()) {
        adjust(logits, size, row);
        peak = find_peak(logits, size);
    }
    if (peak.at == BROKEN || row.temperature == 0) return peak.at;
    weigh(logits, size, peak.value, row.temperature, row.min_p, scratch);
    if (!row.is_truncated()) {
        scratch.ties.fill(0);
        return draw(row.uniform, {0, 0}, scratch);
    }
    const Cut cut = truncate(row, size, scratch);
    apply(cut, scratch);
    return draw(row.uniform, cut, scratch);
}

// The largest logits, in falling order, and where they are; of equal ones the first. There are at least `count`.
void find_top(const float *logits, int64_t size, int64_t count, float *top, int64_t *ids) {
    int64_t found = 0;
    const auto offer = [&](int64_t id) {
        const float logit = logits[id];
        if (found == count && !(logit > top[count - 1])) return;
        int64_t at = found < count ? found++ : count - 1;
        for (; at > 0 && logit > top[at - 1]; --at) top[at] = top[at - 1], ids[at] = ids[at - 1];
        top[at] = logit, ids[at] = id;
    };
    for (int64_t begin = 0; begin < size; begin += LANES) {
#if defined(__AVX512F__)
        if (found == count && begin + LANES <= size &&
            !_mm512_cmp_ps_mask((__m512)load(logits + begin), (__m512)broadcast(top[count - 1]), _CMP_GT_OQ))
            continue;
#endif
        for (int64_t id = begin; id < min(begin + LANES, size); ++id) offer(id);
    }
}

// What log probabilities are made of: the largest logit, and the logarithm of the sum of e^(logit - largest).
struct Normalizer {
    float largest, log_sum;
};

Normalizer find_normalizer(const float *logits, int64_t size, Scratch &scratch) {
    const Peak peak = find_peak(logits, size);
    if (peak.at == BROKEN) return {__builtin_nanf(""), __builtin_nanf("")};
    weigh(logits, size, peak.value, 1, 0, scratch);
    return {peak.value, float(__builtin_log(total(scratch.masses)))};
}

Scratch &scratch_for(int64_t vocabulary) {
    static thread_local Scratch scratch;
    scratch.resize((vocabulary + BLOCK - 1) / BLOCK);
    return scratch;
}

// Call `take` with each row's number and with a thread's scratch.
// All threads take part, if any: OpenMP would end those that are left out, and start others for the next step.
template <class Take>
void for_rows(int64_t row_count, int64_t vocabulary, int64_t threads, Take take) {
#pragma omp parallel num_threads(row_count > 1 ? threads : 1)
    {
        Scratch &scratch = scratch_for(vocabulary);
#pragma omp for schedule(dynamic)
        for (int64_t row = 0; row < row_count; ++row) take(row, scratch);
    }
}

}  // namespace

// Writes a token id for each row of logits [row_count][vocabulary], or BROKEN where no token can be chosen. Logits are
// changed as the rows say.
extern "C" void choose(float *logits, const Row *rows, int64_t row_count, int64_t vocabulary, int64_t threads,
                       int64_t *token_ids) {
    for_rows(row_count, vocabulary, threads, [&](int64_t row, Scratch &scratch) {
        token_ids[row] = choose_token(logits + row * vocabulary, vocabulary, rows[row], scratch);
    });
}

// Writes each row's normalizer, NaN if the row is broken, and its `count` largest logits and their ids:
// [row_count][count].
extern "C" void top_logits(const float *logits, int64_t row_count, int64_t vocabulary, int64_t threads, int64_t count,
                           Normalizer *normalizers, float *top, int64_t *ids) {
    for_rows(row_count, vocabulary, threads, [&](int64_t row, Scratch &scratch) {
        const float *of_row = logits + row * vocabulary;
        normalizers[row] = find_normalizer(of_row, vocabulary, scratch);
        if (count > 0) find_top(of_row, vocabulary, count, top + row * count, ids + row * count);
    });
}
