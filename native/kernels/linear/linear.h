#pragma once
// Linear layers: out[t][n] = sum over k of weight[n][k] * x[t][k], for t < tokens, weights dense or sparse.
//
// Storage. A matrix is cut into *panels* of 16 output rows; a panel is walked along K in *tiles* that feed one instruction:
//   i8 and i4  16 rows x 4 columns   (vpdpbusd, sdot)
//   bf16       16 x 2                (vdpbf16ps, bfdot)
//   f32        16 x 1
// Inside a tile, element (row r, column c) has index r * tile_cols + c. rows are padded to whole panels (i4: to an even number
// of panels), columns to whole tiles (i4: to whole groups); what is padded is zero in a dense layout and absent in a sparse one.
//
//   dense    values: [panel][tile][16 * tile_cols] codes. i4: two panels (2q, 2q+1) share a byte: low nibble = panel 2q,
//            high nibble = panel 2q+1, so values are [pair][tile][64] bytes.
//   bitmask  masks:  [panel][tile], one little-endian word a tile (i8/i4 u64, bf16 u32, f32 u16), bit = index in the tile.
//            values: the stored elements of panel p in tile order, then bit order, from offsets[p] on (bytes). i4: the stored
//            elements of panels 2q and 2q+1 are two independent sequences of nibbles (low: 2q, high: 2q+1) in one byte stream
//            from offsets[q] on, as long as the longer of the two.
//   pairs    (i4 without minimum, AVX-512): panels 2q and 2q+1 have one mask, masks are [pair][tile]. A bit is set where either panel
//            has a nonzero, and the byte stored for it, from offsets[q] on, holds both panels' nibbles as in a dense layout: more
//            bytes than a bitmask (at 70 % zeros a seventh), but two panels' tiles are expanded at once.
//   slots8   (i8 and i4 without minimum, AVX2): only nonzeros are multiplied; see slots.h.
// At least kValueSlack readable bytes follow the values, so that a kernel may load a full register at the last element.
//
// Values.  f32, bf16: the weight. i8: weight = row_scale[r] * code, code in [-127, 127].
//   i4, groups of 32 or 128 columns: stored nibble u in 0..15; without minimum weight = group_scale * (u - 8), with minimum
//   weight = group_scale * u + group_min (f16 both, [panel pair][group][32 rows]). An element that is not stored is 0 whatever
//   the minimum.
//
// Order of summation (a contract: a token's result is bitwise the same for every batch size, layout, kernel and thread split):
//   f32   acc = fma(w[k], x[k], acc), k ascending from acc = +0.
//   bf16  the f32 order on the widened values, or vdpbf16ps in ascending pairs, or tdpbf16ps in ascending runs of 32 columns: one of
//         the three for all kernels of a plan.
//   i8    exact integer sum s; out = (float(s) * row_scale) * input.scales[t].
//   i4    per group, ascending: exact integer s = sum u' * x (u' = u - 8, or u with a minimum); f = fma(group_scale, float(s), f);
//         with a minimum then f = fma(group_min, float(sum of x over the stored columns), f). out = f * input.scales[t].
#include <cstddef>
#include <cstdint>

namespace filigree {
struct CpuFeatures;
}

namespace filigree::linear {

enum class Format : uint32_t { f32 = 0, bf16 = 1, i8 = 2, i4g32 = 3, i4g128 = 4 };
enum class Layout : uint32_t { dense = 0, bitmask = 1, slots16 = 2, slots8 = 3, pairs = 4 };
enum class InputKind : uint32_t { f32 = 0, bf16 = 1, i8 = 2 };

inline constexpr uint32_t kPanelRows = 16;
inline constexpr size_t kValueSlack = 256;
// Rows of bf16 and i8 activations are zero from `cols` to the next multiple of this; f32 rows need no padding.
inline constexpr uint32_t kInputPadding = 128;

// Internal linkage on purpose: kernel files compiled for one instruction set include this header.
static constexpr bool is_i4(Format f) { return f == Format::i4g32 || f == Format::i4g128; }
static constexpr uint32_t group_size(Format f) {
  return f == Format::i4g32 ? 32 : f == Format::i4g128 ? 128 : 0;
}
static constexpr uint32_t tile_cols(Format f) { return f == Format::f32 ? 1 : f == Format::bf16 ? 2 : 4; }
static constexpr uint32_t mask_bytes(Format f) {
  return f == Format::f32 ? 2 : f == Format::bf16 ? 4 : 8;
}  // per tile
// Bytes of one stored value; i4 counts a byte for a pair of panels.
static constexpr uint32_t value_bytes(Format f) { return f == Format::f32 ? 4 : f == Format::bf16 ? 2 : 1; }
static constexpr uint32_t panels_per_unit(Format f) { return is_i4(f) ? 2 : 1; }
static constexpr InputKind input_kind(Format f) {
  return f == Format::f32 ? InputKind::f32 : f == Format::bf16 ? InputKind::bf16 : InputKind::i8;
}

struct MatrixSpec {
  Format format = Format::f32;
  Layout layout = Layout::dense;
  bool has_min = false;
  uint32_t rows = 0;
  uint32_t cols = 0;
};

static constexpr uint32_t panel_count(const MatrixSpec& m) {
  const uint32_t unit = kPanelRows * panels_per_unit(m.format);
  return (m.rows + unit - 1) / unit * panels_per_unit(m.format);
}
static constexpr bool has_masks(Layout layout) {
  return layout == Layout::bitmask || layout == Layout::pairs;
}
// Rows of mask words, each of tile_count words, that a unit of panels has; and which one is a panel's.
static constexpr uint32_t masks_per_unit(const MatrixSpec& m) {
  return m.layout == Layout::pairs ? 1 : panels_per_unit(m.format);
}
static constexpr uint32_t mask_row(const MatrixSpec& m, uint32_t panel) {
  return m.layout == Layout::pairs ? panel / 2 : panel;
}
static constexpr uint32_t group_count(const MatrixSpec& m) {
  const uint32_t group = group_size(m.format);
  return group == 0 ? 0 : (m.cols + group - 1) / group;
}
static constexpr uint32_t padded_cols(const MatrixSpec& m) {
  const uint32_t unit = is_i4(m.format) ? group_size(m.format) : tile_cols(m.format);
  return (m.cols + unit - 1) / unit * unit;
}
static constexpr uint32_t tile_count(const MatrixSpec& m) { return padded_cols(m) / tile_cols(m.format); }

// A view of a packed matrix; it owns nothing. formats/packed_matrix.h makes and validates it.
struct Matrix : MatrixSpec {
  const std::byte* values = nullptr;  // 64-byte aligned
  const std::byte* masks =
      nullptr;  // bitmask and pairs, 64-byte aligned: [mask_row][tile] words of mask_bytes(format)
  const uint64_t* offsets =
      nullptr;  // sparse layouts: [units + 1] byte offsets into values (unit: a panel; i4: a pair)
  const float* row_scales = nullptr;  // i8: [panel_count * 16]
  const int32_t* code_sums =
      nullptr;  // i8: [panel_count * 16] sum of the codes of a row (folds an unsigned bias of x)
  const uint16_t* group_scales = nullptr;  // i4: f16 [pair][group][32], row 32*pair + i at i
  const uint16_t* group_mins = nullptr;    // i4 with has_min, as group_scales
  uint64_t stored = 0;                     // nonzeros (with minimum: elements stored); rows * cols when dense
  uint64_t bytes = 0;                      // of the whole packed matrix
};

struct Input {
  uint32_t tokens = 0;
  size_t stride = 0;  // elements between tokens, of whichever pointer below is used; for bf16 and i8 at
                      // least cols rounded up to kInputPadding
  const float* f32 = nullptr;
  const uint16_t* bf16 = nullptr;
  const int8_t* i8 = nullptr;           // codes in [-127, 127]; any alignment
  const float* scales = nullptr;        // i8: [tokens]
  const int32_t* group_sums = nullptr;  // i4: [tokens][group_count] sum of the codes of each group of columns
  size_t group_stride = 0;              // elements between tokens in group_sums
};

// Computes output rows [16 * panel_begin, min(rows, 16 * panel_end)) of every token into out[t * out_stride + row]; nothing
// else of out is written. For i4 panel_begin is even, and panel_end even or panel_count. workspace: Plan::workspace_bytes,
// 64-byte aligned, private to the calling thread. Allocates nothing, does not throw.
using RunFn = void (*)(const Matrix&, const Input&, uint32_t panel_begin, uint32_t panel_end, float* out,
                       size_t out_stride, std::byte* workspace);
using WorkspaceFn = size_t (*)(const MatrixSpec&, uint32_t tokens);

// One row of variants.inc.
struct Variant {
  const char* name;
  const char* isa;
  Format format;
  Layout layout;
  uint32_t min_tokens, max_tokens;  // inclusive
  bool (*supported)(const CpuFeatures&);
  RunFn run;
  WorkspaceFn workspace;  // null: none needed
};

// Every variant compiled into this program, best first.
const Variant* variants(size_t* count);

// Which kernel serves which number of tokens: a pure function of the matrix and the processor.
struct Plan {
  static constexpr int kMaxSteps = 8;
  MatrixSpec spec;
  int steps = 0;
  const Variant* step[kMaxSteps] = {};  // ascending, step[i] serves up to limit[i] tokens
  uint32_t limit[kMaxSteps] = {};

  const Variant& pick(uint32_t tokens) const;
  // Largest workspace any number of tokens up to max_tokens needs.
  size_t workspace_bytes(uint32_t max_tokens) const;
};
// Throws Error(unsupported) when no variant fits (a layout of another instruction set).
Plan make_plan(const MatrixSpec& spec, const CpuFeatures& cpu);

// Whether leaving out this fraction of zeros (0..1) can be worth it; below, every layout but dense costs more than it saves.
static constexpr bool is_sparse(double zeros) { return zeros >= 0.35; }

// Layout that suits a matrix with this fraction of zeros on this processor.
Layout choose_layout(Format format, double zeros, const CpuFeatures& cpu);

const char* name_of(Format format);
const char* name_of(Layout layout);

}  // namespace filigree::linear
