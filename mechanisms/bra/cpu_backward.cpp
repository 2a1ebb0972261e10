// Backward pass of bi-level routing attention with LePE: gradients of q, k, v and of LePE's parameters.
//
// Per head of an image, region by region: weights P and their gradient dP = G Vᵀ are computed anew for a few
// of its queries, dS = P ∘ (dP − δ) with δ = Σ P ∘ dP; then dQ = dS K goes to the map, and dK += dSᵀ Q and
// dV += Pᵀ G to rows of the head, which no other task touches: no atomics, and no order that could vary.
// Where a region is routed to more than kKeys keys, they are gone through twice: once for the softmax and δ.
#include <cmath>
#include <limits>

#include "cpu_lepe.h"

namespace {

// Where a thread keeps what.
struct Workspace {
  int64_t size;
  float *keys, *key_columns, *value_columns, *values, *grads, *grad_keys, *grad_values, *local, *taps, *tap_sums;
  float *key_panel, *value_panel, *query, *grad, *grad_query, *weights, *slopes;

  Workspace(const Problem& p, const Geometry& g, float* memory) {
    const int dk = p.qk_dim / p.heads, dv = p.dim / p.heads, wk = round_up(dk, kLanes), wv = round_up(dv, kLanes);
    const int64_t tokens = g.tokens(), bordered = p.lepe_weight ? g.bordered() : 0;
    Parts parts{memory};
    keys = parts.take(tokens * wk);
    key_columns = parts.take(tokens * dk);
    value_columns = parts.take(tokens * dv);
    values = parts.take(bordered * wv);
    grads = parts.take(bordered * wv);
    grad_keys = parts.take(tokens * wk);
    grad_values = parts.take(tokens * wv);
    local = parts.take(p.region_height * g.width * wv);
    taps = parts.take(p.kernel * p.kernel * wv);
    tap_sums = parts.take(p.kernel * p.kernel * wv);
    key_panel = parts.take(int64_t(kKeys) * dk);
    value_panel = parts.take(int64_t(kKeys) * dv);
    query = parts.take(kRegionRows * wk);
    grad = parts.take(kRegionRows * wv);
    grad_query = parts.take(kRegionRows * wk);
    weights = parts.take(kQueries * kKeys);
    slopes = parts.take(kQueries * kKeys);
    size = parts.size;
  }
};

// What the softmax of a query comes to: its largest logit, the sum of weights relative to it, and
// their sum with dP, which over `total` is δ.
struct Row {
  float largest = -std::numeric_limits<float>::infinity(), total = 0.0f, slope = 0.0f;

  // Take in more keys. Their logits become weights relative to the largest so far.
  void add(float* logits, const float* grads, int count, int stride) {
    std::fill(logits + count, logits + stride, -std::numeric_limits<float>::infinity());
    const float before = largest;
    Vec top = splat(before);
    for (int i = 0; i < stride; i += kLanes) top = maximum(top, load(logits + i));
    largest = largest_lane(top);
    Vec sum = {}, product = {};
    for (int i = 0; i < stride; i += kLanes) {
      const Vec weight = exp_negative(load(logits + i) - largest);
      store(logits + i, weight);
      sum += weight;
      product += weight * load(grads + i);
    }
    const float shrink = std::isinf(before) ? 0.0f : std::exp(before - largest);
    total = total * shrink + sum_of_lanes(sum);
    slope = slope * shrink + sum_of_lanes(product);
  }

  // Weights relative to the largest logit become P, and dP becomes dS.
  void finish(float* weights, float* grads, int stride) const {
    const float share = 1.0f / total, delta = slope / total;
    for (int i = 0; i < stride; i += kLanes) {
      const Vec weight = load(weights + i) * share;
      store(weights + i, weight);
      store(grads + i, weight * (load(grads + i) - delta));
    }
  }

  // What add() makes of logits, with what is known once all keys were seen.
  void relative(float* logits, int count, int stride) const {
    std::fill(logits + count, logits + stride, -std::numeric_limits<float>::infinity());
    for (int i = 0; i < stride; i += kLanes) store(logits + i, exp_negative(load(logits + i) - largest));
  }
};

// The head of one image that a task stands for.
template <class T, int D>
class Task {
 public:
  Task(const Problem& p, const Geometry& g, int64_t task, float* memory)
      : p_(p), g_(g), image_(task / p.heads), head_(task % p.heads), w_(p, g, memory),
        map_(p, static_cast<const T*>(p.qkv), task), grad_map_(p, static_cast<T*>(p.grad_qkv), task),
        out_(head_of<D>(p, static_cast<const T*>(p.grad_out), task)) {}

  void run() {
    pack_regions(g_, map_.k, w_.keys, w_.key_columns);
    pack_regions(g_, map_.v, nullptr, w_.value_columns);
    std::fill(w_.grad_keys, w_.grad_keys + int64_t(g_.tokens()) * map_.k.width(), 0.0f);
    std::fill(w_.grad_values, w_.grad_values + int64_t(g_.tokens()) * map_.v.width(), 0.0f);
    for (int region = 0; region < g_.regions; ++region) attend(region);
    if (p_.lepe_weight) start_lepe();
    for (int band = 0; band < g_.region_rows; ++band) write_band(band);
  }

 private:
  const Problem& p_;
  const Geometry& g_;
  int64_t image_, head_;
  Workspace w_;
  Operands<const T, D> map_;
  Operands<T, D> grad_map_;
  Channels<const T, D> out_;
  Panel keys_, values_;

  void attend(int region) {
    Routed routed(g_, p_.routes + (image_ * g_.regions + region) * p_.topk, p_.topk);
    const bool once = routed.total <= kKeys;
    if (once) take(routed, 0);
    for (int begin = 0; begin < g_.real[region]; begin += kRegionRows) {
      const int queries = std::min(kRegionRows, g_.real[region] - begin);
      const int* place = g_.place.data() + g_.first[region] + begin;
      read_rows(map_.q, place, queries, w_.query, p_.scale);
      read_rows(out_, place, queries, w_.grad);
      for (int q = 0; q < queries; ++q) grad_map_.q.will_write(place[q]);
      std::fill(w_.grad_query, w_.grad_query + round_up(queries, kQueries) * map_.q.width(), 0.0f);
      Row rows[kRegionRows];
      if (once) attend_once(routed, queries, rows);
      else attend_twice(routed, queries, rows);
      for (int q = 0; q < queries; ++q)
        write_row<T>(grad_map_.q.at(place[q]), map_.q.count(), w_.grad_query + q * map_.q.width(), p_.scale, nullptr);
    }
  }

  void attend_once(const Routed& routed, int queries, Row* rows) {
    for (int q = 0; q < queries; q += kQueries) {
      logits(q);
      add(routed, rows + q);
      propagate(routed, q, rows + q);
    }
  }

  // Where not all keys can be taken at once.
  void attend_twice(Routed& routed, int queries, Row* rows) {
    for (int64_t key = 0; key < routed.total; key += kKeys) {
      take(routed, key);
      for (int q = 0; q < queries; q += kQueries) {
        logits(q);
        add(routed, rows + q);
      }
    }
    for (int64_t key = 0; key < routed.total; key += kKeys) {
      take(routed, key);
      for (int q = 0; q < queries; q += kQueries) {
        logits(q);
        for (int i = 0; i < kQueries; ++i) rows[q + i].relative(w_.weights + i * routed.stride, routed.count, routed.stride);
        propagate(routed, q, rows + q);
      }
    }
  }

  void take(Routed& routed, int64_t begin) {
    routed.take(begin);
    routed.gather(w_.key_columns, map_.k.count(), w_.key_panel, keys_);
    routed.gather(w_.value_columns, map_.v.count(), w_.value_panel, values_);
  }

  // Logits and dP of four queries and the keys taken.
  void logits(int q) {
    scores_of(w_.query + q * map_.q.width(), map_.q.width(), keys_, map_.q.count(), w_.weights);
    scores_of(w_.grad + q * out_.width(), out_.width(), values_, out_.count(), w_.slopes);
  }

  void add(const Routed& routed, Row* rows) {
    const int stride = routed.stride;
    for (int i = 0; i < kQueries; ++i) rows[i].add(w_.weights + i * stride, w_.slopes + i * stride, routed.count, stride);
  }

  // From weights and dP to what they add to the gradients of q, k and v.
  void propagate(const Routed& routed, int q, const Row* rows) {
    const int stride = routed.stride, count = routed.count;
    for (int i = 0; i < kQueries; ++i) rows[i].finish(w_.weights + i * stride, w_.slopes + i * stride, stride);
    const int width = map_.q.width(), from = q * width;
    add_and_scatter(w_.slopes, stride, routed.row, count, w_.keys, w_.query + from, width, w_.grad_query + from,
                    w_.grad_keys);
    scatter_rows(w_.weights, stride, routed.row, count, w_.grad + q * out_.width(), out_.width(), w_.grad_values);
  }

  // LePE's own gradients, and what its input's gradient needs.
  void start_lepe() {
    const int width = out_.width(), count = p_.kernel * p_.kernel;
    pack_bordered(g_, map_.v, w_.values);
    pack_bordered(g_, out_, w_.grads);
    pack_taps(p_, head_, width, true, w_.taps);
    gradient_of_taps(g_, w_.grads, w_.values, p_.kernel, width, w_.tap_sums);
    float* grad_weight = p_.grad_weight + (image_ * p_.dim + head_ * out_.count()) * count;
    for (int c = 0; c < out_.count(); ++c)
      for (int t = 0; t < count; ++t) grad_weight[c * count + t] = w_.tap_sums[t * width + c];
    gradient_of_bias(g_, w_.grads, width, w_.tap_sums);
    std::copy(w_.tap_sums, w_.tap_sums + out_.count(), p_.grad_bias + image_ * p_.dim + head_ * out_.count());
  }

  // Gradients of k and v, the latter with LePE's share, of a row of regions to the map.
  void write_band(int band) {
    const int top = band * p_.region_height, bottom = std::min<int>(top + p_.region_height, g_.height);
    if (p_.lepe_weight) convolve(g_, w_.grads, w_.taps, nullptr, p_.kernel, out_.width(), top, bottom, w_.local);
    for (int r = band * g_.region_columns; r < (band + 1) * g_.region_columns; ++r)
      for (int token = g_.first[r]; token < g_.first[r] + g_.real[r]; ++token) {
        const int place = g_.place[token];
        grad_map_.k.will_write(g_.place[token + kAhead]);
        grad_map_.v.will_write(g_.place[token + kAhead]);
        const float* local = p_.lepe_weight ? w_.local + int64_t(place - top * g_.width) * out_.width() : nullptr;
        const float* none = nullptr;
        write_row(grad_map_.k.at(place), map_.k.count(), w_.grad_keys + int64_t(token) * map_.k.width(), 1.0f, none);
        write_row(grad_map_.v.at(place), map_.v.count(), w_.grad_values + int64_t(token) * map_.v.width(), 1.0f, local);
      }
  }
};

template <class T, int D>
void backward(const Problem& p, const Geometry& g, int64_t workspace) {
  for_each_task(p, p.batch * p.heads, workspace,
                [&](int64_t task, float* memory) { Task<T, D>(p, g, task, memory).run(); });
}

}  // namespace

// Floats of workspace that each thread needs.
EXPORT int64_t bra_backward_workspace(const Problem* p) { return Workspace(*p, Geometry(*p), nullptr).size; }

// Returns 0, or 1 if a route is not the number of a region.
EXPORT int bra_backward(const Problem* p) {
  const Geometry geometry(*p);
  if (!routes_exist(*p, geometry)) return 1;
  const int64_t workspace = Workspace(*p, geometry, nullptr).size;
  const bool common = p->qk_dim == 32 * p->heads && p->dim == 32 * p->heads;
  const auto run = p->bf16 ? common ? backward<bfloat16, 32> : backward<bfloat16, 0>
                           : common ? backward<float, 32> : backward<float, 0>;
  run(*p, geometry, workspace);
  return 0;
}
