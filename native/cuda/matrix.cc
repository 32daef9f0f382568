#include "cuda/matrix.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/half.h"
#include "base/thread_pool.h"
#include "cuda/layers.h"
#include "cuda/narrow.h"
#include "formats/packed_matrix.h"

namespace filigree::cuda {
namespace {

// Rows of one upload, and of one thread's piece of it, of what is expanded on the host.
constexpr uint32_t kHostRows = 2048, kThreadRows = 64;
// From here on a row has blocks enough (mma_tiles.h) that an outlier among a token's activations coarsens a quarter of them at most
// when they are rounded to i8. Narrower matrices keep bf16: they are no matter of bandwidth.
constexpr uint32_t kRoundedColumns = 2048;
constexpr uint32_t kTileTokens = 32;  // that the tile kernel takes at once

size_t code_bytes(const linear::Matrix& m) {
  return size_t{linear::panel_count(m)} / linear::panels_per_unit(m.format) * linear::tile_count(m) * 64;
}

// bf16 [rows][cols] of a matrix whose codes the device does not know (f32, 4 bits with a minimum), by all threads: one takes longer
// for a model of billions of weights than all else at its start.
DeviceBuffer expanded_on_host(const linear::Matrix& m) {
  DeviceBuffer out(size_t{m.rows} * m.cols * 2, "weights");
  ThreadPool threads(ThreadPool::default_threads());
  std::vector<uint16_t> narrow(size_t{std::min(kHostRows, m.rows)} * m.cols);
  for (uint32_t begin = 0; begin < m.rows; begin += kHostRows) {
    const uint32_t end = std::min(begin + kHostRows, m.rows);
    std::atomic<uint32_t> next = begin;
    threads.run([&](int, int) {
      std::vector<float> wide(size_t{kThreadRows} * m.cols);
      for (uint32_t row; (row = next.fetch_add(kThreadRows)) < end;) {
        const uint32_t n = std::min(kThreadRows, end - row);
        unpack_rows(m, row, n, wide.data());
        uint16_t* const to = narrow.data() + size_t{row - begin} * m.cols;
        for (size_t i = 0; i < size_t{n} * m.cols; ++i) to[i] = f32_to_bf16(wide[i]);
      }
    });
    check(cudaMemcpy(out.as<uint16_t>() + size_t{begin} * m.cols, narrow.data(),
                     size_t{end - begin} * m.cols * 2, cudaMemcpyHostToDevice),
          "upload");
  }
  return out;
}

DeviceBuffer uploaded(const void* from, size_t bytes) {
  DeviceBuffer out(bytes, "weights");
  out.upload(from, bytes);
  return out;
}

}  // namespace

DeviceMatrix::DeviceMatrix(const linear::Matrix& m, const MatrixOptions& options)
    : options_(options), rows_(m.rows), cols_(m.cols) {
  Values kind = m.format == linear::Format::i8 ? Values::i8
                : linear::is_i4(m.format)      ? Values::i4
                                               : Values::bf16;
  const uint32_t group = kind == Values::i4 ? linear::group_size(m.format) : 0;
  DeviceBuffer codes;
  const bool own_codes = m.format != linear::Format::f32 && !m.has_min;
  if (own_codes) {
    codes = uploaded(m.values, code_bytes(m));
    if (kind == Values::i8)
      row_scales_ = uploaded(m.row_scales, size_t{linear::panel_count(m)} * 16 * sizeof(float));
    if (kind == Values::i4)
      unit_scales_ =
          uploaded(m.group_scales, size_t{linear::panel_count(m)} * 16 * linear::group_count(m) * 2);
  } else {
    kind = Values::bf16;
    codes = expanded_on_host(m);
  }
  const PanelCodes panels{kind, rows_, cols_, linear::tile_count(m), codes.as<uint8_t>()};
  const RowCodes flat{kind, rows_, cols_, codes.data()};
  density_ = own_codes ? density_of(panels) : density_of(flat);
  sparse_ = 1 - density_ >= options.min_zeros && cols_ % 8 == 0;
  if (sparse_) {
    pack_sparse(own_codes ? &panels : nullptr, flat, kind, group);
    return;
  }
  DeviceBuffer dense = own_codes
                           ? expand_codes(panels, row_scales_.as<float>(), unit_scales_.as<uint16_t>(), group)
                           : std::move(codes);
  if (!options.have_blas || options.deterministic) {
    tiles_ = pack_tiles(RowCodes{Values::bf16, rows_, cols_, dense.data()}, Tiles::dense);
    plan_tiles();
    bytes_ = decode_bytes_ = tiles_.stored_bytes;
  } else {
    dense_ = std::move(dense);
    bytes_ = decode_bytes_ = dense_.size();
  }
}

void DeviceMatrix::pack_sparse(const PanelCodes* panels, const RowCodes& flat, Values kind, uint32_t group) {
  const bool two_four = panels ? is_two_four(*panels) : is_two_four(flat);
  const Tiles layout = two_four ? Tiles::two_four : Tiles::bitmask;
  if (kind == Values::bf16) {
    tiles_ = panels ? pack_tiles(*panels, layout) : pack_tiles(flat, layout);
  } else if (kind == Values::i8 && cols_ >= kRoundedColumns) {
    tiles_ = pack_tiles(*panels, layout);
    tiles_.view.row_scales = row_scales_.as<float>();
  } else {
    // i8 codes without their scales are exact in bf16; i4 weights are rounded to it.
    const DeviceBuffer wide = expand_codes(*panels, nullptr, unit_scales_.as<uint16_t>(), group);
    if (kind == Values::i4 && cols_ >= kRoundedColumns) {
      const DeviceBuffer narrow(size_t{rows_} * cols_, "weights");
      tile_scales_ = DeviceBuffer(size_t{rows_} * sizeof(float), "weights");
      check(narrow_rows(wide.data(), rows_, cols_, narrow.as<int8_t>(), tile_scales_.as<float>(), nullptr),
            "narrowing weights");
      tiles_ = pack_tiles(RowCodes{Values::i8, rows_, cols_, narrow.data()}, layout);
      tiles_.view.row_scales = tile_scales_.as<float>();
    } else {
      tiles_ = pack_tiles(RowCodes{Values::bf16, rows_, cols_, wide.data()}, layout);
      tiles_.view.row_scales = row_scales_.as<float>();
    }
  }
  plan_tiles();
  bytes_ = tiles_.stored_bytes + row_scales_.size() + unit_scales_.size() + tile_scales_.size();
  if (options_.deterministic) {
    decode_bytes_ = bytes_;
    return;
  }
  const uint32_t unit_cols = unit_cols_for(cols_, row_lanes_warps(rows_, cols_, options_.device));
  lanes_ = panels ? pack_row_lanes(*panels, unit_cols, group) : pack_row_lanes(flat, unit_cols, group);
  lanes_.view.row_scales = row_scales_.as<float>();
  lanes_.view.unit_scales = unit_scales_.as<uint16_t>();
  // As measured (docs/gpu.md): 2:4 tiles beat row lanes of bf16 from one token on, those of i8 and i4 from two.
  lane_tokens_ = !two_four ? 4 : kind == Values::bf16 ? 0 : 1;
  // Expanding costs more than a second pass, at 50 % zeros, too.
  tile_tokens_ = 64;
  bytes_ += lanes_.values.size() + lanes_.distances.size() + lanes_.counts.size();
  decode_bytes_ = (lane_tokens_ > 0 ? lanes_.stored_bytes : tiles_.stored_bytes) + row_scales_.size() +
                  unit_scales_.size();
}

// For each number of tokens the best of the plans that fit, by its estimate; of a deterministic matrix one that cuts K as 32 tokens
// would have it.
void DeviceMatrix::plan_tiles() {
  const std::vector<TilePlan> most = tile_plans(tiles_.view, kTileTokens, options_.device);
  for (uint32_t tokens = 1; tokens <= kTileTokens; ++tokens) {
    const std::vector<TilePlan> plans = tile_plans(tiles_.view, tokens, options_.device);
    auto found = plans.begin();
    if (options_.deterministic) {
      found = std::find_if(plans.begin(), plans.end(), [&](const TilePlan& p) {
        return !most.empty() && p.slice_blocks == most[0].slice_blocks && p.parts == most[0].parts;
      });
    }
    plans_.push_back(found == plans.end() ? std::nullopt : std::optional(*found));
  }
}

size_t DeviceMatrix::partial_bytes(uint32_t tokens) const {
  size_t most = 0;
  for (uint32_t n = 1; n <= std::min<size_t>(tokens, plans_.size());
       ++n) {  // fewer tokens may be cut into more slices
    if (const auto& plan = plans_[n - 1])
      most = std::max(most, partial_floats(tiles_.view, n, *plan) * sizeof(float));
  }
  return most;
}

uint32_t DeviceMatrix::rounded_columns(uint32_t tokens) const {
  const bool tiled = tokens > lane_tokens_ && (tokens <= tile_tokens_ || options_.deterministic);
  return tiled && tiles_.view.kind == Values::i8 ? tile_cols(Values::i8, tiles_.view.tiles) : 0;
}

void DeviceMatrix::run(const Input& x, const Output& out, const Workspace& w, cudaStream_t stream) const {
  if (x.tokens <= lane_tokens_) {
    Input input = x;
    input.quantize = x.tokens == 1 && lanes_.view.kind != Values::bf16;
    check(run_row_lanes(lanes_.view, input, out,
                        plan_row_lanes(lanes_.view, x.tokens, input.quantize, options_.device), w.dependent,
                        stream),
          "row lanes");
  } else if (x.tokens <= tile_tokens_ || !w.blas || options_.deterministic) {
    run_tiled(x, out, w, stream);
  } else if (sparse_) {
    check(expand_row_lanes(lanes_.view, w.expanded, stream), "expanding weights");
    run_dense(w.expanded, x, out, w, stream);
  } else {
    run_dense(dense_.data(), x, out, w, stream);
  }
}

void DeviceMatrix::run_tiled(const Input& x, const Output& out, const Workspace& w,
                             cudaStream_t stream) const {
  const size_t element = out.store == Store::bf16 || out.store == Store::swiglu ? 2 : 4;
  for (uint32_t done = 0; done < x.tokens; done += kTileTokens) {
    Input piece = x;
    piece.tokens = std::min(kTileTokens, x.tokens - done);
    piece.data = static_cast<const uint8_t*>(x.data) + size_t{done} * x.stride * (x.scales ? 1 : 2);
    if (x.scales) piece.scales = x.scales + done * (x.scale_columns ? x.stride / x.scale_columns : 1);
    Output part = out;
    part.data = static_cast<uint8_t*>(out.data) + size_t{done} * out.stride * element;
    const auto& plan = plans_[piece.tokens - 1];
    if (!plan) throw Error(ErrorCode::unsupported, "the GPU has too little shared memory for this matrix");
    check(run_tiles(tiles_.view, piece, part, *plan, w.partials, w.dependent, stream), "tiles");
  }
}

void DeviceMatrix::run_dense(const void* weights, const Input& x, const Output& out, const Workspace& w,
                             cudaStream_t stream) const {
  const bool gated = out.store == Store::swiglu, f32 = out.store == Store::f32 || out.store == Store::add;
  if (!w.blas->multiply(x.tokens, rows_, cols_, x.data, x.stride, weights, false, gated ? w.wide : out.data,
                        gated ? rows_ : out.stride, f32, out.store == Store::add, 0, stream))
    throw Error(ErrorCode::internal, "cuBLAS refused a product of " + std::to_string(x.tokens) +
                                         " tokens with " + std::to_string(rows_) + " x " +
                                         std::to_string(cols_));
  if (gated)
    check(swiglu(w.wide, rows_, true, rows_ / 2, x.tokens, out.data, out.stride, false, stream), "SwiGLU");
  if (out.bias)
    check(add_bias(static_cast<float*>(out.data), out.stride, out.bias, rows_, x.tokens, false, stream),
          "bias");
}

}  // namespace filigree::cuda
