#include "formats/pack.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "base/cpu_features.h"
#include "base/half.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "formats/pack_slots.h"
#include "formats/quantize_rows.h"

namespace filigree {
namespace {

using linear::Format;
using linear::kPanelRows;
using linear::Layout;
using linear::MatrixSpec;

// Where the scales of the matrix go, during the first pass a scratch, then the blob. Layouts as in linear::Matrix.
struct Scales {
  std::vector<float> rows;
  std::vector<uint16_t> groups, mins;
};

// One unit of panels on its way from the source to the blob: 16 or 32 rows.
struct Unit {
  uint32_t first_row = 0, rows = 0;
  std::vector<float> values;    // [rows][cols], what is stored for f32 and bf16
  std::vector<int8_t> codes;    // [rows][cols]: i8 code, or i4 nibble 0..15
  std::vector<uint8_t> stored;  // [rows][cols], 0 or 1
  std::vector<float> scales, mins;
  std::vector<uint8_t> bits;
};

class Packer {
 public:
  Packer(std::span<const RowSource* const> parts, const PackOptions& options, const CpuFeatures& cpu,
         ThreadPool& threads)
      : parts_(parts), options_(options), cpu_(cpu), threads_(threads) {
    uint64_t rows = 0;
    for (const RowSource* part : parts) {
      if (part->cols() != parts[0]->cols())
        throw Error(ErrorCode::invalid_argument, "fused matrices differ in their number of columns");
      rows += part->rows();
    }
    if (parts.empty() || rows == 0 || rows > 1u << 30 || parts[0]->cols() == 0 ||
        parts[0]->cols() > 1u << 30) {
      throw Error(ErrorCode::invalid_argument, "nothing to pack, or over 2^30 rows or columns");
    }
    spec_.format = options.format;
    spec_.layout = options.layout.value_or(Layout::bitmask);
    spec_.rows = static_cast<uint32_t>(rows);
    spec_.cols = static_cast<uint32_t>(parts[0]->cols());
    use_codes_.resize(parts.size());
    decide_codes();
    if (options.layout && !fits(*options.layout)) {
      throw Error(ErrorCode::unsupported, std::string("no ") + linear::name_of(options.format) +
                                              (spec_.has_min ? " with minimums" : "") + " in " +
                                              linear::name_of(*options.layout) + " layout");
    }
  }

  PackedMatrix run() {
    packed_sections(spec_, 0);  // rejects absurd shapes before anything is allocated
    prepare_scales();
    const uint32_t units = unit_count();
    std::vector<uint64_t> unit_bytes(units), unit_stored(units), slot_bytes(units);
    std::vector<std::byte> masks;
    if (spec_.layout == Layout::dense) {
      return fill(masks, unit_bytes, false);
    }
    masks.resize(size_t{linear::panel_count(spec_)} * linear::tile_count(spec_) *
                 linear::mask_bytes(spec_.format));
    for_units([&](Unit& unit, uint32_t u) {
      load(unit, u, true);
      write_masks(unit, u, masks.data(), &unit_bytes[u], &unit_stored[u]);
      if (may_take_slots()) slot_bytes[u] = write_slots(unit, nullptr);
    });
    stored_ = 0;
    for (uint64_t s : unit_stored) stored_ += s;
    if (!options_.layout) {
      const double zeros =
          1.0 - static_cast<double>(stored_) / (static_cast<double>(spec_.rows) * spec_.cols);
      Layout chosen = linear::choose_layout(spec_.format, zeros, cpu_);
      if (!fits(chosen)) chosen = Layout::bitmask;
      // Codes with a mask and minimums can be taken over by a bitmask only.
      if (chosen == Layout::dense && masked_minimum_ && linear::is_sparse(zeros)) chosen = Layout::bitmask;
      if (chosen == Layout::dense) {
        masks = {};
        spec_.layout = Layout::dense;
        const bool same = !masked_minimum_;
        if (!same) decide_codes();  // a dense layout cannot hold an exact zero beside a minimum
        if (!same) prepare_scales();
        return fill(masks, unit_bytes, same);
      }
      spec_.layout = chosen;
    }
    if (spec_.layout == Layout::pairs) share_masks(masks, unit_bytes);
    return fill(masks, spec_.layout == Layout::slots8 ? slot_bytes : unit_bytes, true);
  }

 private:
  uint32_t per_unit() const { return linear::panels_per_unit(spec_.format); }
  uint32_t unit_rows() const { return kPanelRows * per_unit(); }
  uint32_t unit_count() const { return linear::panel_count(spec_) / per_unit(); }

  bool fits(Layout layout) const {
    const bool plain_i4 = linear::is_i4(spec_.format) && !spec_.has_min;
    if (layout == Layout::pairs) return plain_i4;
    if (layout == Layout::slots8) return plain_i4 || spec_.format == Format::i8;
    return layout != Layout::slots16;
  }

  // Whether the zeros, still to be counted, may lead to slots8.
  bool may_take_slots() const {
    if (!fits(Layout::slots8)) return false;
    return options_.layout ? *options_.layout == Layout::slots8
                           : linear::choose_layout(spec_.format, 0.99, cpu_) == Layout::slots8;
  }

  size_t write_slots(const Unit& unit, std::byte* out) const {
    return linear::is_i4(spec_.format) ? pack_slots8_i4(unit.codes.data(), unit.rows, spec_.cols,
                                                        linear::group_size(spec_.format), out)
                                       : pack_slots8(unit.codes.data(), unit.rows, spec_.cols, out);
  }

  // Which parts' own codes are taken over.
  void decide_codes() {
    spec_.has_min = false;
    masked_minimum_ = false;
    const uint32_t group = linear::group_size(spec_.format);
    for (size_t p = 0; p < parts_.size(); ++p) {
      const std::optional<SourceCodes> codes = parts_[p]->codes();
      use_codes_[p] = false;
      if (!codes) continue;
      const bool i8 = spec_.format == Format::i8 && codes->bits == 8 && codes->group == 0 && !codes->has_min;
      const bool i4 = linear::is_i4(spec_.format) && codes->bits == 4 &&
                      (codes->group == 0 || codes->group % static_cast<int>(group) == 0);
      if (!i8 && !i4) continue;
      if (codes->has_min && parts_[p]->masked()) {
        if (spec_.layout == Layout::dense) continue;
        masked_minimum_ = true;
      }
      use_codes_[p] = true;
      spec_.has_min = spec_.has_min || codes->has_min;
    }
  }

  void prepare_scales() {
    const size_t rows = size_t{linear::panel_count(spec_)} * kPanelRows;
    if (spec_.format == Format::i8) scales_.rows.assign(rows, 0.0f);
    if (linear::is_i4(spec_.format)) scales_.groups.assign(rows * linear::group_count(spec_), 0);
    if (spec_.has_min) scales_.mins.assign(rows * linear::group_count(spec_), 0);
  }

  // Place of (row, group) in the group scales.
  size_t scale_index(uint32_t row, uint32_t group) const {
    return (size_t{row / 32} * linear::group_count(spec_) + group) * 32 + row % 32;
  }

  template <class Body>
  void for_units(const Body& body) {
    const uint32_t units = unit_count();
    std::atomic<uint32_t> next{0};
    threads_.run([&](int, int) {
      Unit unit;
      for (uint32_t u; (u = next.fetch_add(1)) < units;) body(unit, u);
    });
  }

  // Reads a unit's rows and rounds them to the format. With `search` the scales are determined and kept; without, those that
  // the first pass found are used.
  void load(Unit& unit, uint32_t u, bool search) {
    unit.first_row = u * unit_rows();
    unit.rows = std::min(unit_rows(), spec_.rows - unit.first_row);
    const size_t elements = size_t{unit.rows} * spec_.cols;
    const bool integer = linear::input_kind(spec_.format) == linear::InputKind::i8;
    unit.stored.resize(elements);
    if (integer) unit.codes.resize(elements);
    uint64_t part_begin = 0;
    for (size_t p = 0; p < parts_.size(); ++p) {
      const uint64_t part_end = part_begin + parts_[p]->rows();
      const uint64_t begin = std::max<uint64_t>(part_begin, unit.first_row);
      const uint64_t end = std::min<uint64_t>(part_end, unit.first_row + unit.rows);
      if (begin < end) {
        const uint32_t at = static_cast<uint32_t>(begin - unit.first_row),
                       n = static_cast<uint32_t>(end - begin);
        if (use_codes_[p]) {
          load_codes(unit, *parts_[p], begin - part_begin, at, n);
        } else {
          load_values(unit, *parts_[p], begin - part_begin, at, n, search);
        }
      }
      part_begin = part_end;
    }
  }

  void load_values(Unit& unit, const RowSource& part, uint64_t row, uint32_t at, uint32_t n, bool search) {
    const size_t cols = spec_.cols, begin = at * cols, count = n * cols;
    unit.values.resize(std::max(unit.values.size(), size_t{unit_rows()} * cols));
    float* values = unit.values.data() + begin;
    part.read_f32(row, n, values);
    if (!all_finite(values, count)) {
      throw Error(ErrorCode::corrupt_data, "weights hold a NaN or an infinity near row " +
                                               std::to_string(row) + "; the file is damaged");
    }
    uint8_t* stored = unit.stored.data() + begin;
    if (spec_.format == Format::f32 || spec_.format == Format::bf16) {
      if (spec_.format == Format::bf16) {
        for (size_t i = 0; i < count; ++i) values[i] = bf16_to_f32(f32_to_bf16(values[i]));
      }
      for (size_t i = 0; i < count; ++i) stored[i] = values[i] != 0.0f;
      return;
    }
    int8_t* codes = unit.codes.data() + begin;
    const uint32_t first = unit.first_row + at;
    for (uint32_t r = 0; r < n; ++r) {
      if (spec_.format == Format::i8) {
        quantize_row_i8(values + r * cols, cols, codes + r * cols, &scales_.rows[first + r]);
        continue;
      }
      const uint32_t group = linear::group_size(spec_.format);
      for (uint32_t g = 0; g * group < cols; ++g) {
        const size_t k = size_t{g} * group, length = std::min<size_t>(group, cols - k),
                     s = scale_index(first + r, g);
        if (search) scales_.groups[s] = search_i4_scale(values + r * cols + k, length);
        if (search && spec_.has_min) scales_.mins[s] = symmetric_minimum(scales_.groups[s]);
        quantize_group_i4(values + r * cols + k, length, scales_.groups[s], codes + r * cols + k);
      }
    }
    for (size_t i = 0; i < count; ++i) stored[i] = codes[i] != 0;
    if (spec_.format != Format::i8) {
      for (size_t i = 0; i < count; ++i) codes[i] = static_cast<int8_t>(codes[i] + 8);
    }
  }

  // scale * (u - 8) written with a minimum.
  static uint16_t symmetric_minimum(uint16_t scale) { return f32_to_f16(-8.0f * f16_to_f32(scale)); }

  void load_codes(Unit& unit, const RowSource& part, uint64_t row, uint32_t at, uint32_t n) {
    const size_t cols = spec_.cols, begin = at * cols, count = n * cols;
    const SourceCodes source = *part.codes();
    const size_t source_groups = source.group == 0 ? 1
                                                   : (cols + static_cast<size_t>(source.group) - 1) /
                                                         static_cast<size_t>(source.group);
    unit.scales.resize(n * source_groups);
    unit.mins.resize(n * source_groups);
    int8_t* codes = unit.codes.data() + begin;
    uint8_t* stored = unit.stored.data() + begin;
    part.read_codes(row, n, codes, unit.scales.data(), source.has_min ? unit.mins.data() : nullptr);
    const int low = source.bits == 8 ? -127
                    : source.has_min ? 0
                                     : -8,
              high = source.bits == 8 ? 127 : low + 15;
    bool valid = all_finite(unit.scales.data(), n * source_groups);
    for (size_t i = 0; i < count; ++i) valid &= codes[i] >= low && codes[i] <= high;
    if (!valid)
      throw Error(ErrorCode::corrupt_data,
                  "weight codes or scales out of range near row " + std::to_string(row));
    if (source.has_min) {
      std::fill_n(stored, count, uint8_t{1});
      if (part.masked()) read_mask(unit, part, row, n, stored);
    } else {
      for (size_t i = 0; i < count; ++i) stored[i] = codes[i] != 0;
    }
    const uint32_t first = unit.first_row + at;
    if (spec_.format == Format::i8) {
      std::copy_n(unit.scales.data(), n, &scales_.rows[first]);
      return;
    }
    const uint32_t group = linear::group_size(spec_.format);
    for (uint32_t r = 0; r < n; ++r) {
      for (uint32_t g = 0; g * group < cols; ++g) {
        const size_t from = r * source_groups +
                            (source.group == 0 ? 0 : size_t{g} * group / static_cast<size_t>(source.group));
        const size_t s = scale_index(first + r, g);
        scales_.groups[s] = f32_to_f16(unit.scales[from]);
        if (spec_.has_min)
          scales_.mins[s] =
              source.has_min ? f32_to_f16(unit.mins[from]) : symmetric_minimum(scales_.groups[s]);
      }
    }
    if (!source.has_min) {
      for (size_t i = 0; i < count; ++i) codes[i] = static_cast<int8_t>(codes[i] + 8);
    }
  }

  void read_mask(Unit& unit, const RowSource& part, uint64_t row, uint32_t n, uint8_t* stored) const {
    const size_t row_bytes = (size_t{spec_.cols} + 7) / 8;
    unit.bits.resize(n * row_bytes);
    part.read_mask(row, n, unit.bits.data());
    for (uint32_t r = 0; r < n; ++r) {
      for (size_t k = 0; k < spec_.cols; ++k)
        stored[r * size_t{spec_.cols} + k] = unit.bits[r * row_bytes + k / 8] >> (k % 8) & 1;
    }
  }

  void write_masks(const Unit& unit, uint32_t u, std::byte* masks, uint64_t* value_bytes,
                   uint64_t* stored) const {
    const uint32_t tiles = linear::tile_count(spec_), tc = linear::tile_cols(spec_.format),
                   word = linear::mask_bytes(spec_.format);
    *value_bytes = *stored = 0;
    for (uint32_t panel = 0; panel < per_unit(); ++panel) {
      std::byte* out = masks + (size_t{u} * per_unit() + panel) * tiles * word;
      uint64_t count = 0;
      for (uint32_t r = 0; r < kPanelRows && panel * kPanelRows + r < unit.rows; ++r) {
        const uint8_t* row = unit.stored.data() + size_t{panel * kPanelRows + r} * spec_.cols;
        for (uint32_t k = 0; k < spec_.cols; ++k) {
          const uint32_t bit = r * tc + k % tc;
          out[size_t{k / tc} * word + bit / 8] |= static_cast<std::byte>(row[k] << (bit % 8));
          count += row[k];
        }
      }
      *stored += count;
      *value_bytes = std::max(*value_bytes, count * linear::value_bytes(spec_.format));
    }
  }

  // Masks of panels to masks of pairs, and the bytes of a unit's values to those of a pair.
  void share_masks(std::vector<std::byte>& masks, std::vector<uint64_t>& unit_bytes) const {
    const size_t row = size_t{linear::tile_count(spec_)} * linear::mask_bytes(spec_.format);
    for (size_t u = 0; u < unit_bytes.size(); ++u) {
      const std::byte* panels = masks.data() + 2 * u * row;
      std::byte* pair = masks.data() + u * row;
      unit_bytes[u] = 0;
      for (size_t i = 0; i < row; ++i) {
        pair[i] = panels[i] | panels[row + i];
        unit_bytes[u] += static_cast<uint64_t>(std::popcount(static_cast<uint8_t>(pair[i])));
      }
    }
    masks.resize(unit_bytes.size() * row);
  }

  // Second pass: allocates the blob, copies what the first found, and writes the values.
  PackedMatrix fill(const std::vector<std::byte>& masks, const std::vector<uint64_t>& unit_bytes,
                    bool scales_known) {
    const bool dense = spec_.layout == Layout::dense;
    const uint32_t units = unit_count();
    const uint64_t dense_unit = uint64_t{linear::tile_count(spec_)} * kPanelRows *
                                linear::tile_cols(spec_.format) * linear::value_bytes(spec_.format);
    std::vector<uint64_t> offsets(units + 1);
    for (uint32_t u = 0; u < units; ++u) offsets[u + 1] = offsets[u] + (dense ? dense_unit : unit_bytes[u]);
    const PackedSections at = packed_sections(spec_, offsets[units]);
    AlignedBuffer blob(at.total);
    if (!dense) {
      std::memcpy(blob.data() + at.offsets, offsets.data(), offsets.size() * sizeof(uint64_t));
      if (linear::has_masks(spec_.layout)) std::memcpy(blob.data() + at.masks, masks.data(), masks.size());
    }
    int32_t* code_sums = reinterpret_cast<int32_t*>(blob.data() + at.code_sums);
    for_units([&](Unit& unit, uint32_t u) {
      load(unit, u, !scales_known);
      if (spec_.layout == Layout::slots8) {
        write_slots(unit, blob.data() + at.values + offsets[u]);
      } else {
        write_values(unit, blob.data() + at.values + offsets[u], dense);
      }
      if (spec_.format == Format::i8) {
        for (uint32_t r = 0; r < unit.rows; ++r) {
          int32_t sum = 0;
          for (uint32_t k = 0; k < spec_.cols; ++k) sum += unit.codes[size_t{r} * spec_.cols + k];
          code_sums[unit.first_row + r] = sum;
        }
      }
      if (options_.rows_done != nullptr) options_.rows_done->fetch_add(unit.rows, std::memory_order_relaxed);
    });
    const auto copy = [&](uint64_t to, const auto& from) {
      if (!from.empty()) std::memcpy(blob.data() + to, from.data(), from.size() * sizeof(from[0]));
    };
    copy(at.row_scales, scales_.rows);
    copy(at.group_scales, scales_.groups);
    copy(at.group_mins, scales_.mins);
    seal(blob, spec_, dense ? uint64_t{spec_.rows} * spec_.cols : stored_, offsets[units]);
    return PackedMatrix(std::move(blob), false);
  }

  void write_values(const Unit& unit, std::byte* out, bool dense) const {
    switch (spec_.format) {
      case Format::f32:
        return write_panel<float>(unit, reinterpret_cast<float*>(out), dense,
                                  [](float v, int8_t) { return v; });
      case Format::bf16:
        return write_panel<uint16_t>(unit, reinterpret_cast<uint16_t*>(out), dense,
                                     [](float v, int8_t) { return f32_to_bf16(v); });
      case Format::i8:
        return write_panel<int8_t>(unit, reinterpret_cast<int8_t*>(out), dense,
                                   [](float, int8_t c) { return c; });
      default:
        write_nibbles(unit, reinterpret_cast<uint8_t*>(out), dense);
    }
  }

  // Element (r, k) of one panel in tile order; body(row in the panel, column, inside the matrix).
  template <class Body>
  void walk_panel(const Body& body) const {
    const uint32_t tiles = linear::tile_count(spec_), tc = linear::tile_cols(spec_.format);
    for (uint32_t t = 0; t < tiles; ++t) {
      for (uint32_t r = 0; r < kPanelRows; ++r) {
        for (uint32_t c = 0; c < tc; ++c) body(r, t * tc + c);
      }
    }
  }

  template <class T, class Value>
  void write_panel(const Unit& unit, T* out, bool dense, const Value& value) const {
    const bool integer = spec_.format == Format::i8;
    walk_panel([&](uint32_t r, uint32_t k) {
      const bool inside = r < unit.rows && k < spec_.cols;
      const size_t e = size_t{r} * spec_.cols + k;
      if (dense) {
        *out++ = inside ? value(integer ? 0.0f : unit.values[e], integer ? unit.codes[e] : int8_t{0}) : T{};
      } else if (inside && unit.stored[e]) {
        *out++ = value(integer ? 0.0f : unit.values[e], integer ? unit.codes[e] : int8_t{0});
      }
    });
  }

  // Low nibbles for the first panel of a unit, high ones for the second: in a bitmask each with its own position in the byte stream,
  // else both in one byte.
  void write_nibbles(const Unit& unit, uint8_t* out, bool dense) const {
    const auto element = [&](uint32_t row, uint32_t k) { return size_t{row} * spec_.cols + k; };
    const auto inside = [&](uint32_t row, uint32_t k) { return row < unit.rows && k < spec_.cols; };
    if (spec_.layout == Layout::bitmask) {
      for (uint32_t panel = 0; panel < 2; ++panel) {
        uint8_t* at = out;
        walk_panel([&](uint32_t r, uint32_t k) {
          const uint32_t row = panel * kPanelRows + r;
          if (inside(row, k) && unit.stored[element(row, k)])
            *at++ |= static_cast<uint8_t>(unit.codes[element(row, k)] << (4 * panel));
        });
      }
      return;
    }
    walk_panel([&](uint32_t r, uint32_t k) {
      uint8_t byte = 0;
      bool stored = dense;
      for (uint32_t panel = 0; panel < 2; ++panel) {
        const uint32_t row = panel * kPanelRows + r;
        const bool here = inside(row, k);
        stored = stored || (here && unit.stored[element(row, k)]);
        byte |= static_cast<uint8_t>((here ? unit.codes[element(row, k)] : 8) << (4 * panel));
      }
      if (stored) *out++ = byte;
    });
  }

  std::span<const RowSource* const> parts_;
  const PackOptions& options_;
  const CpuFeatures& cpu_;
  ThreadPool& threads_;
  MatrixSpec spec_;
  std::vector<bool> use_codes_;
  bool masked_minimum_ = false;  // some part has both a mask and a minimum
  uint64_t stored_ = 0;
  Scales scales_;
};

}  // namespace

PackedMatrix pack(std::span<const RowSource* const> parts, const PackOptions& options, const CpuFeatures& cpu,
                  ThreadPool& threads) {
  if (parts.empty()) throw Error(ErrorCode::invalid_argument, "nothing to pack");
  return Packer(parts, options, cpu, threads).run();
}

}  // namespace filigree
