#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "formats/quantize_rows.h"
#include "kernels/linear/slots.h"
#include "linear_fixture.h"

namespace filigree::test {
namespace {

using linear::Format;
using linear::Layout;

constexpr Format kFormats[] = {Format::f32, Format::bf16, Format::i8, Format::i4g32, Format::i4g128};
constexpr Layout kLayouts[] = {Layout::dense, Layout::bitmask, Layout::slots8, Layout::pairs};

bool fits(Layout layout, Format format, bool has_min = false) {
  const bool plain_i4 = linear::is_i4(format) && !has_min;
  if (layout == Layout::pairs) return plain_i4;
  return layout != Layout::slots8 || format == Format::i8 || plain_i4;
}

std::vector<float> unpack(const PackedMatrix& packed) {
  const linear::Matrix& m = packed.matrix();
  std::vector<float> out(size_t{m.rows} * m.cols);
  unpack_rows(m, 0, m.rows, out.data());
  return out;
}

AlignedBuffer copy_of(const PackedMatrix& packed) {
  AlignedBuffer copy(packed.blob().size());
  std::memcpy(copy.data(), packed.blob().data(), packed.blob().size());
  return copy;
}

FILIGREE_TEST(pack_keeps_the_weights) {
  Random random(11);
  for (Format format : kFormats) {
    for (Layout layout : kLayouts) {
      if (!fits(layout, format)) continue;
      for (double zeros : {0.0, 0.6, 1.0}) {
        const MemoryRows rows = random_rows(random, 1 + random.below(60), 1 + random.below(300), zeros);
        const std::vector<float> out = unpack(pack_rows(rows, format, layout));
        const size_t cols = rows.cols();
        for (size_t r = 0; r < rows.rows(); ++r) {
          float most = 0.0f;
          for (size_t k = 0; k < cols; ++k) most = std::max(most, std::fabs(rows.values[r * cols + k]));
          for (size_t k = 0; k < cols; ++k) {
            const float value = rows.values[r * cols + k], back = out[r * cols + k];
            // Half a step of the format; a clipped i4 extreme may be off by a quarter of it.
            const float bound = format == Format::f32    ? 0.0f
                                : format == Format::bf16 ? std::fabs(value) * 0x1p-8f
                                : format == Format::i8   ? most / 254.0f * 1.0001f
                                                         : most * 0.25f;
            check(std::fabs(back - value) <= bound, name_of(format));
            if (value == 0.0f) check(back == 0.0f, "a zero stays a zero");
          }
        }
      }
    }
  }
}

FILIGREE_TEST(pack_takes_codes_over_without_rounding) {
  Random random(12);
  for (Layout layout : kLayouts) {
    for (int kind = 0; kind < 6; ++kind) {
      const bool i8 = kind == 0, has_min = kind >= 4, masked = kind % 2 == 1;
      const Format format = i8 ? Format::i8 : kind % 2 ? Format::i4g128 : Format::i4g32;
      const SourceCodes codes{i8 ? 8 : 4, i8 ? 0 : static_cast<int>(linear::group_size(format)), has_min};
      MemoryRows rows(37, 290);
      rows.randomize_codes(random, codes, 0.6, masked);
      if (has_min && masked && layout == Layout::dense) continue;  // cannot be exact: see pack.cc
      if (!fits(layout, format, has_min)) continue;
      const std::vector<float> out = unpack(pack_rows(rows, format, layout));
      check(out == rows.values, "exact");
    }
  }
}

// A bit and a byte for each place where either panel has a nonzero; without a partner a nibble is 8, which is zero.
FILIGREE_TEST(pack_i4_panels_of_a_pair_share_a_mask) {
  MemoryRows rows(18, 128);
  rows.source_codes = SourceCodes{4, 128, false};
  rows.code.assign(size_t{18} * 128, 0);
  rows.scale.assign(18, 1.0f);
  const auto code = [&](size_t row, size_t col) -> int8_t& { return rows.code[row * 128 + col]; };
  code(0, 0) = 3, code(0, 5) = -8;
  code(16, 5) = 7, code(17, 6) = -1;
  const PackedMatrix packed = pack_rows(rows, Format::i4g128, Layout::pairs);
  const linear::Matrix& m = packed.matrix();
  check_equal(m.stored, uint64_t{4});
  check_equal(m.offsets[1], uint64_t{3});
  std::array<uint64_t, 32> masks;
  std::memcpy(masks.data(), m.masks, sizeof masks);
  // Tiles of 4 columns: rows 0 and 16 have bits 0 to 3, rows 1 and 17 bits 4 to 7.
  check_equal(masks[0], uint64_t{1});
  check_equal(masks[1], uint64_t{1} << 1 | uint64_t{1} << 6);
  check(std::all_of(masks.begin() + 2, masks.end(), [](uint64_t mask) { return mask == 0; }), "nothing else");
  const std::array<uint8_t, 3> bytes{0x8b, 0xf0, 0x78};
  check(std::memcmp(m.values, bytes.data(), bytes.size()) == 0, "the first panel's nibble is the low one");
  const std::vector<float> out = unpack(packed);
  for (size_t i = 0; i < out.size(); ++i) check_equal(out[i], static_cast<float>(rows.code[i]));
}

FILIGREE_TEST(pack_i4_in_pairs_where_zeros_are_many_and_no_minimum) {
  Random random(18);
  CpuFeatures cpu;
  cpu.avx2 = cpu.avx512 = cpu.avx512_vnni = cpu.avx512_vbmi = true;
  ThreadPool pool(2);
  const auto layout = [&](const MemoryRows& rows, Format format) {
    const RowSource* parts[] = {&rows};
    PackOptions options;
    options.format = format;
    return pack(parts, options, cpu, pool).matrix().layout;
  };
  const MemoryRows most = random_rows(random, 70, 256, 0.75), half = random_rows(random, 70, 256, 0.5);
  MemoryRows masked(70, 256);
  masked.randomize_codes(random, {4, 32, true}, 0.75, true);
  for (Format format : {Format::i4g32, Format::i4g128})
    check(layout(most, format) == Layout::pairs && layout(half, format) == Layout::bitmask, name_of(format));
  check(layout(masked, Format::i4g32) == Layout::bitmask, "a minimum");
  check(layout(most, Format::i8) == Layout::bitmask, "i8");
}

// What lets a kernel multiply unsigned activations by pairs of codes in 16 bits (slots.h).
FILIGREE_TEST(pack_puts_safe_pairs_into_slots) {
  Random random(18);
  for (double zeros : {0.0, 0.5, 0.9}) {
    MemoryRows rows(40, 500);
    rows.randomize_codes(random, {8, 0, false}, zeros, false);
    const PackedMatrix packed = pack_rows(rows, Format::i8, Layout::slots8);
    const linear::Matrix& m = packed.matrix();
    for (uint32_t panel = 0; panel < linear::panel_count(m); ++panel) {
      const std::byte* end = m.values + m.offsets[panel + 1];
      for (const std::byte* p = m.values + m.offsets[panel] + linear::kSlotHeaderBytes; p < end;
           p += linear::kSlotPairBytes) {
        for (size_t i = 0; i < linear::kSlotPlaces; i += 2) {
          const int a = static_cast<int8_t>(p[i]), b = static_cast<int8_t>(p[i + 1]);
          check(linear::is_safe_pair(a, b), std::to_string(a) + " beside " + std::to_string(b));
        }
      }
    }
    check(unpack(packed) == rows.values, "exact");
  }
}

FILIGREE_TEST(pack_bytes_do_not_depend_on_threads) {
  Random random(13);
  const MemoryRows a = random_rows(random, 150, 200, 0.6), b = random_rows(random, 37, 200, 0.8);
  const RowSource* parts[] = {&a, &b};
  for (Format format : kFormats) {
    ThreadPool one(1), four(4);
    PackOptions options;
    options.format = format;
    const PackedMatrix x = pack(parts, options, detect_cpu(), one),
                       y = pack(parts, options, detect_cpu(), four);
    check(std::ranges::equal(x.blob(), y.blob()), name_of(format));
    check_equal(x.matrix().rows, 187u);
    check(x.matrix().layout == linear::choose_layout(format, 0.64, detect_cpu()), "zeros recognized");
  }
}

FILIGREE_TEST(pack_concatenates_parts) {
  Random random(14);
  const MemoryRows a = random_rows(random, 21, 96, 0.2), b = random_rows(random, 50, 96, 0.2);
  const RowSource* parts[] = {&a, &b};
  ThreadPool pool(2);
  std::atomic<uint64_t> done{0};
  PackOptions options;
  options.rows_done = &done;
  const PackedMatrix packed = pack(parts, options, detect_cpu(), pool);
  check(packed.matrix().layout == Layout::dense, "few zeros");
  std::vector<float> both = a.values;
  both.insert(both.end(), b.values.begin(), b.values.end());
  check(unpack(packed) == both, "rows in order");
  check_equal(done.load(), 71u);
}

FILIGREE_TEST(pack_rejects_bad_weights) {
  Random random(15);
  MemoryRows rows = random_rows(random, 20, 40, 0.5);
  const MemoryRows narrow = random_rows(random, 20, 39, 0.5);
  ThreadPool pool(2);
  const RowSource* parts[] = {&rows, &narrow};
  check_throws<Error>([&] { pack(parts, {}, detect_cpu(), pool); }, "different widths");
  check_throws<Error>([&] { pack({}, {}, detect_cpu(), pool); }, "no parts");
  rows.values[7] = NAN;
  for (Format format : kFormats)
    check_throws<Error>([&] { pack_rows(rows, format, Layout::bitmask); }, "NaN");
}

// A bit flipped anywhere is found by the checksum; without it, whatever is accepted must be safe to run.
FILIGREE_TEST(packed_matrix_survives_damage) {
  Random random(16);
  for (Format format : kFormats) {
    for (Layout layout : kLayouts) {
      if (!fits(layout, format)) {
        check_throws<Error>([&] { pack_rows(random_rows(random, 40, 70, 0.6), format, layout); });
        continue;
      }
      const PackedMatrix packed = pack_rows(random_rows(random, 40, 70, 0.6), format, layout);
      check(PackedMatrix(copy_of(packed)).matrix().stored == packed.matrix().stored, "a copy loads");
      for (int i = 0; i < 200; ++i) {
        AlignedBuffer blob = copy_of(packed);
        // Header bytes past the fields are reserved; damage what is read.
        const size_t at = i < 60 ? random.below(sizeof(PackedHeader))
                                 : kPackedHeaderBytes +
                                       random.below(static_cast<uint32_t>(blob.size() - kPackedHeaderBytes));
        blob.data()[at] ^= static_cast<std::byte>(1u << random.below(8));
        check_throws<Error>([&] { view_of({blob.data(), blob.size()}, true); }, "damage found");
        try {
          const linear::Matrix m = view_of({blob.data(), blob.size()}, false);
          std::vector<float> out(size_t{m.rows} * m.cols);
          unpack_rows(m, 0, m.rows, out.data());
        } catch (const Error&) {
        }
      }
      for (size_t length : {size_t{0}, size_t{100}, kPackedHeaderBytes, packed.blob().size() - 64}) {
        check_throws<Error>([&] { view_of(packed.blob().first(length), false); }, "truncated");
      }
    }
  }
}

FILIGREE_TEST(quantize_i4_beats_plain_absmax) {
  Random random(17);
  double ours = 0, plain = 0;
  for (int i = 0; i < 200; ++i) {
    std::array<float, 128> x;
    for (float& v : x) v = random.normal();
    std::array<int8_t, 128> codes;
    const uint16_t scale = search_i4_scale(x.data(), x.size());
    quantize_group_i4(x.data(), x.size(), scale, codes.data());
    float most = 0;
    for (float v : x) most = std::max(most, std::fabs(v));
    for (size_t k = 0; k < x.size(); ++k) {
      const float s = most / 7.0f;
      plain += std::pow(x[k] - s * std::nearbyint(x[k] / s), 2.0);
      ours += std::pow(x[k] - f16_to_f32(scale) * codes[k], 2.0);
      check(codes[k] >= -8 && codes[k] <= 7);
    }
  }
  check(ours < 0.85 * plain, "squared error " + std::to_string(ours / plain) + " of absmax's");
}

FILIGREE_TEST(quantize_handles_tiny_and_empty_rows) {
  std::array<int8_t, 5> codes;
  float scale;
  const std::array<float, 5> zeros{}, tiny{1e-40f, -1e-41f, 0, 0, 0};
  quantize_row_i8(zeros.data(), 5, codes.data(), &scale);
  check(scale == 0.0f && codes[0] == 0);
  quantize_row_i8(tiny.data(), 5, codes.data(), &scale);
  check(scale == 0.0f && codes[0] == 0);
  check_equal(search_i4_scale(zeros.data(), 5), 0);
  check_equal(search_i4_scale(tiny.data(), 5), 0);
}

}  // namespace
}  // namespace filigree::test
