// Chooses a token for each row of logits: the largest, or a random one of those that top_k, top_p and min_p leave.
//
// A whole vocabulary is read a few times and is never sorted: at 16 streams, sorting takes longer than a layer of the
// model. Rows share nothing, so a row's token is the same whatever the other rows ask for. choose.py compiles and calls
// this; draw.py and adjustments.py say the same in torch, and the tests hold one against the other.

#include "../decoders/native/numbers.hpp"

namespace {

constexpr int64_t BLOCK = 1024;      // numbers that are summed in float32 before they go into a sum in float64
constexpr int64_t STEPS = 8;         // thresholds that are tried in one pass
constexpr int64_t FEW = 64;          // so many numbers are sorted
constexpr int64_t BROKEN = -1;       // instead of a token id
constexpr float ABOVE_ALL = 2;       // no weight is more than 1
constexpr float NOTABLE = 0x1p-15f;  // in a peaked distribution, few weights are as large as this
constexpr double FLAT = 64;          // the largest weight, 1, times this: weights that add up to more are not peaked
constexpr int64_t STRIDE = 16, MANY = 64 * STRIDE;  // of as many vectors as this, a guess looks at one in STRIDE

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

constexpr float NEGATIVE_INFINITY = -INFINITE;

// Vectors of numbers, in the order of their places.
struct Vectors {
    const float *numbers;
    const int32_t *places;
    int64_t count;
};

struct alignas(64) Line {  // a vector that does not lie across two lines of the processor's cache
    float numbers[LANES];
};

// What is needed of std::vector: gcc takes 0.1 s to read it, as long as <algorithm>.
template <class T>
struct Array {
    T *items = nullptr;
    int64_t size = 0;
    ~Array() { delete[] items; }
    void resize(int64_t wanted) {
        delete[] items;
        items = new T[wanted];
        size = wanted;
    }
    T &operator[](int64_t i) const { return items[i]; }
    void fill(T value) {
        for (int64_t i = 0; i < size; ++i) items[i] = value;
    }
};

// A thread's scratch, kept from step to step.
struct Scratch {
    Array<Line> weight_lines, candidate_lines, kept_lines;
    Array<int32_t> all_places, notable_places;
    float *weights, *candidates, *kept;  // as long as the vocabulary, in whole blocks, and a vector more
    Vectors all, notable;  // of the weights; those that are not among the latter have none of at least NOTABLE
    Array<double> masses;  // of each block of weights
    Array<int64_t> ties;   // how many weights of each block are kept though they equal the cut

    void resize(int64_t blocks) {
        if (masses.size == blocks) return;
        const int64_t vectors = blocks * BLOCK / LANES;
        weight_lines.resize(vectors + 1), candidate_lines.resize(vectors + 1), kept_lines.resize(vectors + 1);
        all_places.resize(vectors), notable_places.resize(vectors);
        for (int64_t i = 0; i < vectors; ++i) all_places[i] = i * LANES;
        weights = weight_lines[0].numbers, candidates = candidate_lines[0].numbers, kept = kept_lines[0].numbers;
        all = notable = first(weights, blocks * BLOCK);
        masses.resize(blocks);
        ties.resize(blocks);
    }
    Vectors first(const float *numbers, int64_t size) const { return {numbers, all_places.items, size / LANES}; }
    // All vectors with a weight of at least `least`.
    Vectors with(float least) const { return least < NOTABLE ? all : notable; }
};

// Which weights are kept: all above `least`, and the first `ties` of those that equal it.
struct Cut {
    float least;
    int64_t ties;
};

// What the kept weights must reach: a number of weights, or a sum of them.
enum class By { COUNT, MASS };

struct Peak {
    float value;
    int64_t at;
};

// The largest logit and the first place where it is; at BROKEN if one is NaN, or if the largest is not finite.
Peak find_peak(const float *logits, int64_t size) {
    float largest = NEGATIVE_INFINITY;
    int64_t block_of_largest = 0;
    Ints is_nan = {};
    for (int64_t begin = 0; begin < size; begin += BLOCK) {
        const int64_t end = min(begin + BLOCK, size);
        Floats most = Floats{} + NEGATIVE_INFINITY;
        int64_t i = begin;
        for (; i + LANES <= end; i += LANES) {
            const Floats x = load(logits + i);
            most = x > most ? x : most;
            is_nan |= x != x;
        }
        float here = most[0];
        for (int64_t lane = 1; lane < LANES; ++lane) here = max(here, most[lane]);
        for (; i < end; ++i) {
            here = max(here, logits[i]);
            is_nan[0] |= logits[i] != logits[i];
        }
        if (here > largest) {
            largest = here;
            block_of_largest = begin;
        }
    }
    for (int64_t lane = 1; lane < LANES; ++lane) is_nan[0] |= is_nan[lane];
    if (is_nan[0] || !__builtin_isfinite(largest)) return {largest, BROKEN};
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

// e^x for x from SMALLEST to 0, as numbers.hpp has it for any x.
constexpr float SMALLEST = -87;  // e^-87 is about 1.6e-38
inline Floats exponential_of_negative(Floats x) {
#if defined(__AVX512F__)
    const Floats n = (Floats)_mm512_roundscale_ps((__m512)(x * 1.44269504f), 0);
#else
    constexpr float ROUNDER = 12582912.0f;  // 1.5 * 2^23: adding it leaves no place for a fraction
    const Floats n = (x * 1.44269504f + ROUNDER) - ROUNDER;
#endif
    const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = 0.0416666667f + r * (0.00833333f + r * 0.00138889f);
    p = 1 + r * (1 + r * (0.5f + r * (0.166666667f + r * p)));
#if defined(__AVX512F__)
    return (Floats)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return p * (Floats)((__builtin_convertvector(n, Ints) + 127) << 23);
#endif
}

// e^((logit - largest) / temperature) for every token, so the largest weight is 1; 0 for those below min_p and for the
// very least. Fills the last block up with zeros, and the masses of the blocks.
void weigh(const float *logits, int64_t size, float largest, const Row &row, Scratch &scratch) {
    const float factor = 1 / float(row.temperature), least = max(float(row.min_p), 2e-38f);
    const auto weights_of = [=](Floats x) {
        const Floats scaled = (x - largest) * factor;
        const Floats weights = exponential_of_negative(scaled > SMALLEST ? scaled : Floats{} + SMALLEST);
        return weights >= least ? weights : Floats{};
    };
    float *weights = scratch.weights;
    for (int64_t begin = 0, block = 0; begin < size; begin += BLOCK, ++block) {
        const int64_t end = min(begin + BLOCK, size);
        Floats mass = {};
        int64_t i = begin;
        for (; i + LANES <= end; i += LANES) {
            const Floats numbers = weights_of(load(logits + i));
            store(weights + i, numbers);
            mass += numbers;
        }
        if (i < end) {
            float rest[LANES];
            for (int64_t lane = 0; lane < LANES; ++lane)
                rest[lane] = i + lane < end ? logits[i + lane] : NEGATIVE_INFINITY;
            const Floats numbers = weights_of(load(rest));
            store(weights + i, numbers);
            mass += numbers;
            i += LANES;
        }
        for (; i < begin + BLOCK; ++i) weights[i] = 0;
        scratch.masses[block] = sum(mass);
    }
}

// Note down which vectors have notable weights. If the distribution is flat, most have.
void find_notable(double mass, Scratch &scratch) {
    scratch.notable = scratch.all;
#if defined(__AVX512F__)
    if (mass > FLAT) return;
    int32_t *places = scratch.notable_places.items;
    int64_t count = 0;
    for (int64_t i = 0; i < scratch.all.count; ++i) {
        const __m512 weights = (__m512)load(scratch.weights + i * LANES);
        places[count] = i * LANES;
        count += _mm512_cmp_ps_mask(weights, (__m512)(Floats{} + NOTABLE), _CMP_GE_OQ) != 0;
    }
    scratch.notable = {scratch.weights, places, count};
#endif
}

// Copy those numbers that are at least `from` and below `to`. `into` may be where the first vector is.
int64_t copy_between(const Vectors &vectors, float from, float to, float *into) {
    int64_t count = 0;
    for (int64_t i = 0; i < vectors.count; ++i) {
        const float *numbers = vectors.numbers + vectors.places[i];
#if defined(__AVX512F__)
        const __m512 x = (__m512)load(numbers);
        const __mmask16 wanted = _mm512_cmp_ps_mask(x, (__m512)(Floats{} + from), _CMP_GE_OQ) &
                                 _mm512_cmp_ps_mask(x, (__m512)(Floats{} + to), _CMP_LT_OQ);
        if (!wanted) continue;
        store(into + count, (Floats)_mm512_maskz_compress_ps(wanted, x));
        count += __builtin_popcount(wanted);
#else
        for (int64_t j = 0; j < LANES; ++j) {
            const float x = numbers[j];
            into[count] = x;
            count += x >= from && x < to;
        }
#endif
    }
    return count;
}

// How many numbers are at least as large as each threshold, or what those add up to: block by block, so that vectors
// without any may be left out. Looks at every STRIDE-th vector.
template <By BY, int COUNT, int64_t STRIDE = 1>
void measure(const Vectors &vectors, const float *thresholds, double *amounts) {
    Floats limits[COUNT];
    for (int64_t step = 0; step < COUNT; ++step) limits[step] = Floats{} + thresholds[step], amounts[step] = 0;
    for (int64_t i = 0; i < vectors.count;) {
        const int64_t end = (vectors.places[i] / BLOCK + 1) * BLOCK;
        Floats amount[COUNT] = {};
        for (; i < vectors.count && vectors.places[i] < end; i += STRIDE) {
            const Floats x = load(vectors.numbers + vectors.places[i]), counted = BY == By::MASS ? x : Floats{} + 1;
            for (int64_t step = 0; step < COUNT; ++step)
                amount[step] = x >= limits[step] ? amount[step] + counted : amount[step];
        }
        for (int64_t step = 0; step < COUNT; ++step) amounts[step] += sum(amount[step]);
    }
}

// The first threshold at which the goal is reached, or STEPS, and what is kept with the one before.
struct Reached {
    int64_t step;
    double before;
};

// `amount` is kept already. Two thresholds are tried if a sample says between which it lies, and all if it does not.
template <By BY>
Reached reach(const Vectors &vectors, const float *thresholds, double amount, double goal) {
    double amounts[STEPS];
    const auto first = [&](double times) {
        int64_t step = 0;
        while (step < STEPS && amount + times * amounts[step] < goal) ++step;
        return step;
    };
    if (vectors.count > MANY) {
        measure<BY, STEPS, STRIDE>(vectors, thresholds, amounts);
        const int64_t guess = min(max(first(STRIDE), int64_t(1)), STEPS - 1);
        measure<BY, 2>(vectors, thresholds + guess - 1, amounts);
        if (amount + amounts[0] < goal && amount + amounts[1] >= goal) return {guess, amount + amounts[0]};
    }
    measure<BY, STEPS>(vectors, thresholds, amounts);
    const int64_t step = first(1);
    return {step, step ? amount + amounts[step - 1] : amount};
}

// The largest comes first.
void sort(float *numbers, int64_t size) {
    for (int64_t i = 1; i < size; ++i) {
        const float moved = numbers[i];
        int64_t to = i;
        for (; to > 0 && numbers[to - 1] < moved; --to) numbers[to] = numbers[to - 1];
        numbers[to] = moved;
    }
}

// The cut among a few positive numbers, if `amount` is kept already. Of them, one is kept at least.
template <By BY>
Cut cut_sorted(float *numbers, int64_t size, double amount, double goal) {
    sort(numbers, size);
    int64_t kept = 0, ties = 0;
    do amount += BY == By::MASS ? numbers[kept] : 1;
    while (++kept < size && amount < goal);
    const float least = numbers[kept - 1];
    while (ties < kept && numbers[kept - 1 - ties] == least) ++ties;
    return {least, ties};
}

struct Range {
    float least, most;
};

// Of at least LANES numbers.
Range range_of(const float *numbers, int64_t size) {
    Floats least = load(numbers), most = least;
    for (int64_t i = 0; i < size; i += LANES) {
        const Floats x = load(numbers + min(i, size - LANES));  // the last ones overlap
        least = x < least ? x : least;
        most = x > most ? x : most;
    }
    Range range = {least[0], most[0]};
    for (int64_t lane = 1; lane < LANES; ++lane) range = {min(range.least, least[lane]), max(range.most, most[lane])};
    return range;
}

// Thresholds from `most` down to `least`, less and less apart: evenly by their bits. The first is more than `least`.
void spread(float least, float most, float *thresholds) {
    int32_t lower, upper;
    memcpy(&lower, &least, sizeof lower);
    memcpy(&upper, &most, sizeof upper);
    for (int64_t step = 0; step < STEPS; ++step) {
        const int32_t bits = upper - int32_t((upper - lower) * (step + 1) / (STEPS + 1));
        memcpy(thresholds + step, &bits, sizeof bits);
    }
}

// The smallest number of largest weights that reaches the goal. Thresholds that lie ever closer together are tried, and
// the weights between the last that does not keep enough and the first that does are looked at again. `all` are the
// weights, from 0 to 1, and not all 0; those of at least NOTABLE are in `notable`.
template <By BY>
Cut find_cut(Vectors all, Vectors notable, double goal, Scratch &scratch) {
    float *candidates = scratch.candidates;
    double amount = 0;  // of what is kept whatever the next pass says
    float from = __FLT_MIN__, to = ABOVE_ALL;
    float thresholds[STEPS] = {0x1p-1f, 0x1p-2f, 0x1p-3f, 0x1p-4f, 0x1p-6f, 0x1p-8f, 0x1p-11f, NOTABLE};
    while (true) {
        const auto [step, kept] = reach<BY>(notable, thresholds, amount, goal);
        const float lower = step < STEPS ? thresholds[step] : from, upper = step ? thresholds[step - 1] : to;
        const int64_t found = copy_between(step < STEPS ? notable : all, lower, upper, candidates);
        amount = kept;
        if (found == 0) return {upper, INT64_MAX};  // short by rounding alone: keep all above
        if (found <= FEW) return cut_sorted<BY>(candidates, found, amount, goal);
        const auto [least, most] = range_of(candidates, found);
        if (least == most) {  // equal weights: as many as are missing
            const double missing = (goal - amount) / (BY == By::MASS ? least : 1);
            return {least, int64_t(min(max(__builtin_ceil(missing), 1.0), double(found)))};
        }
        from = least, to = __builtin_nextafterf(most, ABOVE_ALL);
        spread(least, most, thresholds);
        const int64_t size = (found + LANES - 1) / LANES * LANES;
        for (int64_t i = found; i < size; ++i) candidates[i] = 0;
        all = notable = scratch.first(candidates, size);
    }
}

double total(const Array<double> &masses) {
    double all = 0;
    for (int64_t block = 0; block < masses.size; ++block) all += masses[block];
    return all;
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
            above += x > cut.least ? x : Floats{};
            equal -= x == cut.least;
        }
        const int64_t equals = sum(__builtin_convertvector(equal, Floats));
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
    weigh(logits, size, peak.value, row, scratch);
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
            !_mm512_cmp_ps_mask((__m512)load(logits + begin), (__m512)(Floats{} + top[count - 1]), _CMP_GT_OQ))
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
    Row row = {};
    row.temperature = 1;
    weigh(logits, size, peak.value, row, scratch);
    return {peak.value, float(__builtin_log(total(scratch.masses)))};
}

Scratch &scratch_for(int64_t vocabulary) {
    static thread_local Scratch scratch;
    scratch.resize((vocabulary + BLOCK - 1) / BLOCK);
    return scratch;
}

// Call `take` with each row's number and with a thread's scratch.
template <class Take>
void for_rows(int64_t row_count, int64_t vocabulary, int64_t threads, Take take) {
#pragma omp parallel num_threads(min(threads, row_count))
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
extern "C" void look(const float *logits, int64_t row_count, int64_t vocabulary, int64_t threads, int64_t count,
                     Normalizer *normalizers, float *top, int64_t *ids) {
    for_rows(row_count, vocabulary, threads, [&](int64_t row, Scratch &scratch) {
        const float *of_row = logits + row * vocabulary;
        normalizers[row] = find_normalizer(of_row, vocabulary, scratch);
        if (count > 0) find_top(of_row, vocabulary, count, top + row * count, ids + row * count);
    });
}
