// Skiparse attention on CPU: forward and backward, float32 or float16 in, float32 inside.
//
//   q, k, v (B, N, H, D)   text_q, text_k, text_v (B, L, H, D)   ->   out (B, N, H, D), text_out (B, L, H, D)
//
// The tokens of a sub-sequence are addressed where they lie: a tile of keys and values is read row by row into a buffer
// of some ten kilobytes, and results are stored the same way. Softmax is taken online (Milakov and Gimelshein 2018; Dao
// et al. 2022, FlashAttention), so scores exist for one tile at a time. Keys that are padding are not in the list of
// keys.
//
// Everything is a product of ROWS x (V * LANES) sums (cpu.h). Queries run along the vector lanes, keys along its rows:
// so the maximum and the sum of softmax are plain vector operations, and only Q and the result are ever transposed.
//
// An item of work is a block of queries of one head and sub-sequence in the forward pass, and a whole sub-sequence of
// one head in the backward pass. Items write to places of their own, and text, which all sub-sequences share, is added
// up over them afterwards in a fixed order: the result depends neither on the number of threads nor on their pace.

#include "../cpu.h"
#include "../skiparse.h"

namespace {

constexpr int LINE = WIDE * LANES;    // queries side by side in registers
constexpr int BLOCK = 384 / LINE;     // lines that share a tile of keys while it lies in the cache
constexpr int SPAN = BLOCK * LINE;    // queries of one item
constexpr int TILE = 96;              // keys at a time, a multiple of ROWS
constexpr float LOG2_E = 1.44269504088896341f;

// Inputs of either pass, in the order of the operators' arguments. What is absent is a placeholder of one axis.
template <typename T>
struct Problem {
  int64_t batch, tokens, heads, dim, padded_dim, length = 0;
  bool text_queries;
  Skip skip;
  const T *q, *k, *v, *text_q, *text_k, *text_v;
  std::vector<std::vector<int32_t>> keys;  // [b * n + s]: the visual tokens attended to
  std::vector<int64_t> words;              // [b]: the text tokens attended to
  std::vector<int64_t> queries;            // [s]: the visual tokens of a sub-sequence; text queries follow them

  Problem(void **p, const int *ndims, int64_t **shapes)
      : batch(shapes[0][0]), tokens(shapes[0][1]), heads(shapes[0][2]), dim(shapes[0][3]),
        padded_dim(round_up(dim, std::max(LANES, ROWS))), text_queries(ndims[3] == 4), skip(shapes[8]),
        q(static_cast<const T *>(p[0])), k(static_cast<const T *>(p[1])), v(static_cast<const T *>(p[2])),
        text_q(static_cast<const T *>(p[3])), text_k(static_cast<const T *>(p[4])),
        text_v(static_cast<const T *>(p[5])) {
    if (ndims[4] == 4) length = shapes[4][1];
    const int32_t *lengths = static_cast<const int32_t *>(p[6]);
    const int32_t *mask = ndims[7] == 2 ? static_cast<const int32_t *>(p[7]) : nullptr;
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t real = lengths[shapes[6][0] == 1 ? 0 : b];
      words.push_back(std::max<int64_t>(0, std::min(real, length)));
      for (int64_t s = 0; s < skip.n; ++s) {
        std::vector<int32_t> list;
        int64_t row = 0;
        for (; row < skip.rows(tokens) && skip.token(s, row) < tokens; ++row)  // padding has the highest numbers
          if (!mask || mask[b * tokens + skip.token(s, row)]) list.push_back(skip.token(s, row));
        keys.push_back(std::move(list));
        if (b == 0) queries.push_back(row);
      }
    }
  }

  int64_t all_queries(int64_t s) const { return queries[s] + (text_queries ? length : 0); }
  int64_t all_keys(int64_t b, int64_t s) const { return keys[b * skip.n + s].size() + words[b]; }
  int64_t visual_at(int64_t b, int64_t h, int64_t token) const { return ((b * tokens + token) * heads + h) * dim; }
  int64_t text_at(int64_t b, int64_t h, int64_t word) const { return ((b * length + word) * heads + h) * dim; }
  // In arrays that hold text once for every sub-sequence, (B, n, L, H, D).
  int64_t copy_at(int64_t b, int64_t h, int64_t s, int64_t word) const {
    return (((b * skip.n + s) * length + word) * heads + h) * dim;
  }
  // In the row statistics, (B, H, N + n L).
  int64_t lse_at(int64_t b, int64_t h, int64_t s, int64_t query) const {
    const int64_t visual = queries[s];
    return (b * heads + h) * (tokens + skip.n * (text_queries ? length : 0)) +
           (query < visual ? skip.token(s, query) : tokens + s * length + query - visual);
  }

  // Keys or values `first` ... `first + count` of a sub-sequence as float rows, filled up to ROWS rows with zeros.
  void gather(const T *visual, const T *text, int64_t b, int64_t h, int64_t s, int64_t first, int64_t count,
              float *to) const {
    const std::vector<int32_t> &list = keys[b * skip.n + s];
    const int64_t own = list.size();
    auto row = [&](int64_t j) {
      return j < own ? visual + visual_at(b, h, list[j]) : text + text_at(b, h, j - own);
    };
    for (int64_t j = first; j < first + count; ++j, to += padded_dim) {
      // Rows lie kilobytes apart, where no processor fetches ahead by itself.
      const char *ahead = reinterpret_cast<const char *>(row(std::min(j + 8, first + count - 1)));
      for (size_t byte = 0; byte < dim * sizeof(T); byte += 64) __builtin_prefetch(ahead + byte);
      widen_row(row(j), to, dim);
      std::fill(to + dim, to + padded_dim, 0.0f);
    }
    std::fill(to, to + (round_up(count, ROWS) - count) * padded_dim, 0.0f);
  }
};

// Rows become columns: to[d][lane] = row[d] * scale.
inline void put_column(const float *row, int64_t dim, float scale, float *to) {
  for (int64_t d = 0; d < dim; ++d) to[d * LINE] = row[d] * scale;
}

inline void take_column(const float *from, int64_t dim, float *row) {
  for (int64_t d = 0; d < dim; ++d) row[d] = from[d * LINE];
}

inline int vectors(int64_t lanes) { return (std::min<int64_t>(lanes, LINE) + LANES - 1) / LANES; }

// Text (B, L, H, D) from its copies, one for each sub-sequence.
template <typename T>
void add_copies(const Problem<T> &x, const float *copies, float scale, T *to) {
  const int64_t size = x.length * x.heads * x.dim;
  for (int64_t b = 0; b < x.batch; ++b)
    for (int64_t i = 0; i < size; ++i) {
      float total = 0;
      for (int64_t s = 0; s < x.skip.n; ++s) total += copies[(b * x.skip.n + s) * size + i];
      to[b * size + i] = narrow<T>(total * scale);
    }
}

// ---- forward

struct ForwardScratch {
  Floats k, v, q, out, scores, highest, total;
  explicit ForwardScratch(int64_t padded_dim)
      : k(floats(TILE * padded_dim)), v(floats(TILE * padded_dim)), q(floats(SPAN * padded_dim)),
        out(floats(SPAN * padded_dim)), scores(floats(TILE * LINE)), highest(floats(SPAN)), total(floats(SPAN)) {}
};

// One line of queries meets one tile of keys. scores: [key][query], becomes exp2(score - highest).
template <int V>
void attend(const float *k, const float *v, int64_t keys, int64_t dim, int64_t padded_dim, const float *q,
            float *scores, float *out, float *highest, float *total) {
  products<V, true, ZERO>(round_up(keys, ROWS), k, padded_dim, q, LINE, scores, LINE, dim);
  vec top[V], scale[V], added[V];
  for (int i = 0; i < V; ++i) top[i] = load(highest + i * LANES);
  for (int64_t j = 0; j < keys; ++j)
    for (int i = 0; i < V; ++i) top[i] = larger(top[i], load(scores + j * LINE + i * LANES));
  for (int i = 0; i < V; ++i) {
    scale[i] = exp2(load(highest + i * LANES) - top[i]);
    store(highest + i * LANES, top[i]);
    added[i] = vec{};
  }
  for (int64_t j = 0; j < keys; ++j)
    for (int i = 0; i < V; ++i) {
      const vec p = exp2(load(scores + j * LINE + i * LANES) - top[i]);
      added[i] += p;
      store(scores + j * LINE + i * LANES, p);
    }
  for (int i = 0; i < V; ++i) store(total + i * LANES, load(total + i * LANES) * scale[i] + added[i]);
  products<V, false, RESCALE>(padded_dim, v, padded_dim, scores, LINE, out, LINE, keys, scale);
}

template <typename T>
void forward(const Problem<T> &x, T *out, T *text_out, float *lse, float *copies) {
  const int64_t n = x.skip.n, most = x.all_queries(0), blocks = (most + SPAN - 1) / SPAN;
  const int64_t span = round_up((most + blocks - 1) / blocks, LANES);  // all blocks about as long
  const float factor = LOG2_E / std::sqrt(float(x.dim));
  const int64_t cost = span * (x.all_keys(0, 0) + 1) * x.dim * 2;
  auto scratch = [&] { return ForwardScratch(x.padded_dim); };
  share_out(x.batch * x.heads * n * blocks, cost, scratch, [&](ForwardScratch &w, int64_t item) {
    const int64_t first = item % blocks * span, s = item / blocks % n, h = item / blocks / n % x.heads,
                  b = item / blocks / n / x.heads, count = std::min(span, x.all_queries(s) - first);
    if (count <= 0) return;
    std::vector<float> row(x.dim);
    const int64_t lines = (count + LINE - 1) / LINE, column = x.padded_dim * LINE;
    std::fill(w.q.get(), w.q.get() + lines * column, 0.0f);
    std::fill(w.out.get(), w.out.get() + lines * column, 0.0f);
    std::fill(w.highest.get(), w.highest.get() + SPAN, -1e30f);
    std::fill(w.total.get(), w.total.get() + SPAN, 0.0f);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t query = first + i, word = query - x.queries[s];
      widen_row(word < 0 ? x.q + x.visual_at(b, h, x.skip.token(s, query)) : x.text_q + x.text_at(b, h, word),
                row.data(), x.dim);
      put_column(row.data(), x.dim, factor, w.q.get() + i / LINE * column + i % LINE);
    }
    const int64_t keys = x.all_keys(b, s), tiles = (keys + TILE - 1) / TILE;
    const int64_t tile = tiles ? round_up((keys + tiles - 1) / tiles, ROWS) : 0;
    for (int64_t start = 0; start < keys; start += tile) {
      const int64_t present = std::min(tile, keys - start);
      x.gather(x.k, x.text_k, b, h, s, start, present, w.k.get());
      x.gather(x.v, x.text_v, b, h, s, start, present, w.v.get());
      for (int64_t line = 0; line < lines; ++line) {
        const int width = vectors(count - line * LINE);
        auto meet = width == 1 ? attend<1> : width == 2 ? attend<2> : attend<3>;
        meet(w.k.get(), w.v.get(), present, x.dim, x.padded_dim, w.q.get() + line * column, w.scores.get(),
             w.out.get() + line * column, w.highest.get() + line * LINE, w.total.get() + line * LINE);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t query = first + i, word = query - x.queries[s];
      const float total = w.total[i], scale = total > 0 ? 1 / total : 0;  // no key at all: zero
      take_column(w.out.get() + i / LINE * column + i % LINE, x.dim, row.data());
      for (float &value : row) value *= scale;
      if (word < 0)
        narrow_row(row.data(), out + x.visual_at(b, h, x.skip.token(s, query)), x.dim);
      else
        narrow_row(row.data(), copies + x.copy_at(b, h, s, word), x.dim);
      lse[x.lse_at(b, h, s, query)] = total > 0 ? w.highest[i] + std::log2(total) : 0;  // to the base of 2
    }
  });
  if (x.text_queries) add_copies(x, copies, 1.0f / n, text_out);
}

// ---- backward

struct BackwardScratch {
  Floats k, v, q, out, q_rows, out_rows, q_grad, k_grad, v_grad, weights, grads, lse, delta;
  BackwardScratch(int64_t padded_dim, int64_t keys)
      : k(floats(TILE * padded_dim)), v(floats(TILE * padded_dim)), q(floats(SPAN * padded_dim)),
        out(floats(SPAN * padded_dim)), q_rows(floats(SPAN * padded_dim)), out_rows(floats(SPAN * padded_dim)),
        q_grad(floats(SPAN * padded_dim)), k_grad(floats((keys + ROWS) * padded_dim)),
        v_grad(floats((keys + ROWS) * padded_dim)), weights(floats(TILE * LINE)), grads(floats(TILE * LINE)),
        lse(floats(SPAN)), delta(floats(SPAN)) {}
};

// c += a b for a: [keys][query], b: [query][channel], the channels along the lanes.
inline void add_products(int64_t keys, const float *a, const float *b, float *c, int64_t padded_dim, int64_t queries) {
  for (int64_t d = 0; d < padded_dim;) {
    const int64_t left = (padded_dim - d) / LANES, width = left == 4 ? 2 : std::min<int64_t>(left, WIDE);
    auto add = width == 1 ? products<1, true, ADD> : width == 2 ? products<2, true, ADD> : products<3, true, ADD>;
    add(keys, a, LINE, b + d, padded_dim, c + d, padded_dim, queries, nullptr);
    d += width * LANES;
  }
}

// One line of queries meets one tile of keys: softmax again from its log-sum-exp, then the five products' other four.
template <int V>
void pull(const float *k, const float *v, int64_t keys, int64_t queries, int64_t dim, int64_t padded_dim,
          const BackwardScratch &w, int64_t line, float *k_grad, float *v_grad) {
  const int64_t column = line * LINE * padded_dim, rows = round_up(keys, ROWS);
  float *weights = w.weights.get(), *grads = w.grads.get();
  products<V, true, ZERO>(rows, k, padded_dim, w.q.get() + column, LINE, weights, LINE, dim);
  products<V, true, ZERO>(rows, v, padded_dim, w.out.get() + column, LINE, grads, LINE, dim);
  vec lse[V], delta[V];
  for (int i = 0; i < V; ++i) {
    lse[i] = load(w.lse.get() + line * LINE + i * LANES);
    delta[i] = load(w.delta.get() + line * LINE + i * LANES);
  }
  for (int64_t j = 0; j < keys; ++j)
    for (int i = 0; i < V; ++i) {
      const int64_t at = j * LINE + i * LANES;
      const vec p = exp2(load(weights + at) - lse[i]);
      store(weights + at, p);
      store(grads + at, p * (load(grads + at) - delta[i]));
    }
  products<V, false, ADD>(padded_dim, k, padded_dim, grads, LINE, w.q_grad.get() + column, LINE, keys);
  add_products(rows, weights, w.out_rows.get() + column, v_grad, padded_dim, queries);
  add_products(rows, grads, w.q_rows.get() + column, k_grad, padded_dim, queries);
}

template <typename T>
struct Gradients {
  T *q, *k, *v, *text_q, *text_k, *text_v;
};

template <typename T>
void backward(const Problem<T> &x, const T *out, const float *lse, const float *copies, const T *out_grad,
              const T *text_out_grad, Gradients<T> to) {
  const int64_t n = x.skip.n, size = n * x.batch * x.length * x.heads * x.dim;
  const float scale = 1 / std::sqrt(float(x.dim));
  // Of text, every sub-sequence has a gradient of its own.
  std::vector<float> text_q(x.text_queries ? size : 0), text_k(size), text_v(size);
  std::fill(to.k, to.k + x.batch * x.tokens * x.heads * x.dim, T(0));  // masked keys have no other
  std::fill(to.v, to.v + x.batch * x.tokens * x.heads * x.dim, T(0));
  int64_t most = 0;
  for (int64_t b = 0; b < x.batch; ++b)
    for (int64_t s = 0; s < n; ++s) most = std::max(most, x.all_keys(b, s));
  const int64_t cost = x.all_queries(0) * (most + 1) * x.dim * 5;
  auto scratch = [&] { return BackwardScratch(x.padded_dim, most); };
  share_out(x.batch * x.heads * n, cost, scratch, [&](BackwardScratch &w, int64_t item) {
    const int64_t s = item % n, h = item / n % x.heads, b = item / n / x.heads;
    const int64_t keys = x.all_keys(b, s), tiles = (keys + TILE - 1) / TILE, column = x.padded_dim * LINE;
    const int64_t tile = tiles ? round_up((keys + tiles - 1) / tiles, ROWS) : 0;
    std::vector<float> row(x.dim);
    std::fill(w.k_grad.get(), w.k_grad.get() + (keys + ROWS) * x.padded_dim, 0.0f);
    std::fill(w.v_grad.get(), w.v_grad.get() + (keys + ROWS) * x.padded_dim, 0.0f);
    for (int64_t first = 0; first < x.all_queries(s); first += SPAN) {
      const int64_t count = std::min<int64_t>(SPAN, x.all_queries(s) - first), lines = (count + LINE - 1) / LINE;
      for (Floats *part : {&w.q, &w.out, &w.q_rows, &w.out_rows, &w.q_grad})
        std::fill(part->get(), part->get() + lines * column, 0.0f);
      std::fill(w.lse.get(), w.lse.get() + SPAN, 0.0f);
      std::fill(w.delta.get(), w.delta.get() + SPAN, 0.0f);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t query = first + i, word = query - x.queries[s], lane = i / LINE * column + i % LINE;
        float *q_row = w.q_rows.get() + i * x.padded_dim, *grad = w.out_rows.get() + i * x.padded_dim;
        if (word < 0) {
          const int64_t at = x.visual_at(b, h, x.skip.token(s, query));
          widen_row(x.q + at, q_row, x.dim);
          widen_row(out_grad + at, grad, x.dim);
          widen_row(out + at, row.data(), x.dim);
        } else {
          const int64_t at = x.text_at(b, h, word);
          widen_row(x.text_q + at, q_row, x.dim);
          widen_row(text_out_grad + at, grad, x.dim);
          for (int64_t d = 0; d < x.dim; ++d) grad[d] /= n;  // the mean over the sub-sequences
          widen_row(copies + x.copy_at(b, h, s, word), row.data(), x.dim);
        }
        put_column(q_row, x.dim, scale * LOG2_E, w.q.get() + lane);
        put_column(grad, x.dim, 1, w.out.get() + lane);
        w.lse[i] = lse[x.lse_at(b, h, s, query)];
        for (int64_t d = 0; d < x.dim; ++d) w.delta[i] += row[d] * grad[d];
      }
      for (int64_t start = 0; start < keys; start += tile) {
        const int64_t present = std::min(tile, keys - start);
        x.gather(x.k, x.text_k, b, h, s, start, present, w.k.get());
        x.gather(x.v, x.text_v, b, h, s, start, present, w.v.get());
        for (int64_t line = 0; line < lines; ++line) {
          const int64_t queries = std::min<int64_t>(LINE, count - line * LINE);
          auto meet = vectors(queries) == 1 ? pull<1> : vectors(queries) == 2 ? pull<2> : pull<3>;
          meet(w.k.get(), w.v.get(), present, queries, x.dim, x.padded_dim, w, line,
               w.k_grad.get() + start * x.padded_dim, w.v_grad.get() + start * x.padded_dim);
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t query = first + i, word = query - x.queries[s];
        take_column(w.q_grad.get() + i / LINE * column + i % LINE, x.dim, row.data());
        for (float &value : row) value *= scale;
        if (word < 0)
          narrow_row(row.data(), to.q + x.visual_at(b, h, x.skip.token(s, query)), x.dim);
        else
          std::copy(row.begin(), row.end(), text_q.begin() + x.copy_at(b, h, s, word));
      }
    }
    const std::vector<int32_t> &list = x.keys[b * n + s];
    for (int64_t j = 0; j < keys; ++j) {
      const int64_t word = j - int64_t(list.size());
      float *k_row = w.k_grad.get() + j * x.padded_dim, *v_row = w.v_grad.get() + j * x.padded_dim;
      for (int64_t d = 0; d < x.dim; ++d) k_row[d] *= scale;
      if (word < 0) {
        narrow_row(k_row, to.k + x.visual_at(b, h, list[j]), x.dim);
        narrow_row(v_row, to.v + x.visual_at(b, h, list[j]), x.dim);
      } else {
        std::copy(k_row, k_row + x.dim, text_k.begin() + x.copy_at(b, h, s, word));
        std::copy(v_row, v_row + x.dim, text_v.begin() + x.copy_at(b, h, s, word));
      }
    }
  });
  if (x.text_queries) add_copies(x, text_q.data(), 1, to.text_q);
  add_copies(x, text_k.data(), 1, to.text_k);  // nothing, where there is no text
  add_copies(x, text_v.data(), 1, to.text_v);
}

template <typename T>
int run_forward(void **p, int *ndims, int64_t **shapes) {
  const Problem<T> x(p, ndims, shapes);
  if (ndims[10] == 1) *static_cast<T *>(p[10]) = T(0);  // text that does not ask
  forward(x, static_cast<T *>(p[9]), static_cast<T *>(p[10]), static_cast<float *>(p[11]), static_cast<float *>(p[12]));
  return 0;
}

template <typename T>
int run_backward(void **p, int *ndims, int64_t **shapes) {
  const Problem<T> x(p, ndims, shapes);
  T *to[6];
  for (int i = 0; i < 6; ++i) to[i] = static_cast<T *>(p[14 + i]);
  backward(x, static_cast<const T *>(p[9]), static_cast<const float *>(p[10]), static_cast<const float *>(p[11]),
           static_cast<const T *>(p[12]), static_cast<const T *>(p[13]),
           Gradients<T>{to[0], to[1], to[2], to[3], to[4], to[5]});
  for (int i = 3; i < 6; ++i)
    if (ndims[14 + i] == 1) std::memset(p[14 + i], 0, sizeof(float));  // a placeholder's gradient
  return 0;
}

}  // namespace

// q, k, v, text_q, text_k, text_v, lengths, mask, skip -> out, text_out, lse, copies
extern "C" int SkiparseAttention(int count, void **p, int *ndims, int64_t **shapes, const char **dtypes, void *,
                                 void *) {
  if (count != 13) return 1;
  if (is(dtypes[0], "float32")) return run_forward<float>(p, ndims, shapes);
  return is(dtypes[0], "float16") ? run_forward<half>(p, ndims, shapes) : 1;
}

// the nine inputs, out, lse, copies, gradients of out and text_out -> gradients of the first six inputs
extern "C" int SkiparseAttentionGrad(int count, void **p, int *ndims, int64_t **shapes, const char **dtypes, void *,
                                     void *) {
  if (count != 20) return 1;
  if (is(dtypes[0], "float32")) return run_backward<float>(p, ndims, shapes);
  return is(dtypes[0], "float16") ? run_backward<half>(p, ndims, shapes) : 1;
}
