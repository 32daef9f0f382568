#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/half.h"
#include "base/status.h"
#include "kernels/linear/shares.h"
#include "linear_fixture.h"

// Every kernel of the table against the scalar one: integer formats and f32 bit by bit, bf16 within the bound derived below.

namespace filigree::test {
namespace {

using linear::Format;
using linear::Layout;
using linear::Variant;

constexpr char kIsas[] = "scalar avx2 avxvnni avx512 avx512vnni avx512bf16 amx neon neoni8mm";
constexpr Format kFormats[] = {Format::f32, Format::bf16, Format::i8, Format::i4g32, Format::i4g128};

std::vector<const Variant*> variants_of(std::string_view isa, Format format, Layout layout) {
  size_t count;
  const Variant* all = linear::variants(&count);
  std::vector<const Variant*> found;
  for (size_t i = 0; i < count; ++i) {
    if (all[i].isa == isa && all[i].format == format && all[i].layout == layout) found.push_back(&all[i]);
  }
  return found;
}

const Variant& scalar(Format format, Layout layout) { return *variants_of("scalar", format, layout).at(0); }

std::vector<Layout> layouts_of(std::string_view isa, Format format) {
  std::vector<Layout> found;
  for (Layout layout : {Layout::dense, Layout::bitmask, Layout::slots16, Layout::slots8, Layout::pairs}) {
    if (!variants_of(isa, format, layout).empty()) found.push_back(layout);
  }
  return found;
}

std::string label(const Variant& v, const linear::Matrix& m, uint32_t tokens) {
  return std::string(v.name) + " " + name_of(v.format) + " " + name_of(v.layout) + " " +
         std::to_string(m.rows) + "x" + std::to_string(m.cols) + " tokens " + std::to_string(tokens) +
         (m.has_min ? " min" : "");
}

// bf16 kernels may sum in another order than the reference (vdpbf16ps) and flush denormals. With n products, any order of n
// additions of products rounded once, each with relative error u = 2^-24, differs from another by at most
// 2 n u / (1 - n u) * sum |w x| (Higham, Accuracy and Stability, 3.1), plus n flushed terms under 2^-126.
float bf16_bound(const linear::Matrix& m, const std::vector<float>& weights, const uint16_t* x,
                 uint32_t row) {
  double magnitude = 0;
  for (uint32_t k = 0; k < m.cols; ++k)
    magnitude += std::fabs(double{weights[size_t{row} * m.cols + k]} * bf16_to_f32(x[k]));
  const double nu = (2.0 * m.cols + 2) * 0x1p-24;
  return static_cast<float>(2 * nu / (1 - nu) * magnitude + m.cols * 0x1p-125);
}

void compare(const Variant& v, const linear::Matrix& m, const linear::Input& in,
             const std::vector<float>& expected, uint32_t cut) {
  const std::vector<float> actual = run_variant(v, m, in, cut);
  if (m.format != Format::bf16) {
    size_t wrong = 0, first = 0;
    for (size_t i = expected.size(); i-- > 0;) {
      if (std::memcmp(&actual[i], &expected[i], 4) != 0) ++wrong, first = i;
    }
    check(wrong == 0, label(v, m, in.tokens) + ": " + std::to_string(wrong) + " wrong, first token " +
                          std::to_string(first / m.rows) + " row " + std::to_string(first % m.rows) + ": " +
                          std::to_string(actual[first]) + " instead of " + std::to_string(expected[first]));
    return;
  }
  std::vector<float> weights(size_t{m.rows} * m.cols);
  unpack_rows(m, 0, m.rows, weights.data());
  bool close = true;
  for (uint32_t t = 0; t < in.tokens; ++t) {
    for (uint32_t r = 0; r < m.rows; ++r) {
      const size_t i = size_t{t} * m.rows + r;
      close =
          close && std::fabs(actual[i] - expected[i]) <= bf16_bound(m, weights, in.bf16 + t * in.stride, r);
    }
  }
  check(close, label(v, m, in.tokens));
}

// All kernels of an instruction set on one matrix, whole and cut at a random panel, every one within its range of tokens.
void check_matrix(std::string_view isa, const MemoryRows& rows, Format format, uint32_t tokens,
                  Random& random) {
  const Activations x(random, tokens, static_cast<uint32_t>(rows.cols()), format);
  for (Layout layout : layouts_of(isa, format)) {
    const PackedMatrix packed = pack_rows(rows, format, layout);
    const linear::Matrix& m = packed.matrix();
    const std::vector<float> expected = run_variant(scalar(format, layout), m, x.view(0, tokens));
    const uint32_t unit = linear::panels_per_unit(format);
    for (const Variant* v : variants_of(isa, format, layout)) {
      const uint32_t count = std::clamp(tokens, v->min_tokens, v->max_tokens);
      if (count > tokens) continue;
      const uint32_t cut = random.below(linear::panel_count(m) / unit + 1) * unit;
      const std::vector<float> head(expected.begin(),
                                    expected.begin() + static_cast<ptrdiff_t>(size_t{count} * m.rows));
      compare(*v, m, x.view(0, count), head, 0);
      compare(*v, m, x.view(0, count), head, cut);
    }
  }
}

FILIGREE_ISA_TEST(linear_odd_shapes_match_the_reference, kIsas) {
  Random random(1);
  constexpr double kZeros[] = {0.0, 0.3, 0.5, 0.7, 0.9, 1.0};
  for (Format format : kFormats) {
    for (int i = 0; i < 60; ++i) {
      const uint32_t rows = 1 + random.below(50), cols = 1 + random.below(300), tokens = 1 + random.below(40);
      const MemoryRows m = random_rows(random, rows, cols, kZeros[i % 6], i % 2 == 1);
      check_matrix(isa, m, format, tokens, random);
    }
  }
}

FILIGREE_ISA_TEST(linear_every_width_up_to_300, kIsas) {
  Random random(2);
  for (Format format : kFormats) {
    for (uint32_t cols = 1; cols <= 300; cols += 1)
      check_matrix(isa, random_rows(random, 17, cols, 0.6), format, 1 + cols % 5, random);
  }
}

FILIGREE_ISA_TEST(linear_every_batch_up_to_40, kIsas) {
  Random random(3);
  for (Format format : kFormats) {
    const MemoryRows m = random_rows(random, 83, 200, 0.7);
    for (uint32_t tokens = 1; tokens <= 40; ++tokens) check_matrix(isa, m, format, tokens, random);
    check_matrix(isa, m, format, 131, random);
  }
}

// What multiplies nonzeros alone begins at 32 or 64 tokens, cuts them in blocks of 11 to 16 and the columns in blocks of 512.
FILIGREE_ISA_TEST(linear_many_tokens_over_blocks_of_columns, "avx2 avxvnni avx512vnni amx neon neoni8mm") {
  Random random(9);
  constexpr double kZeros[] = {0.0, 0.5, 0.7, 0.9, 0.99, 1.0};
  for (Format format : {Format::i8, Format::i4g32, Format::i4g128}) {
    for (int i = 0; i < 6; ++i) {
      const uint32_t rows = 1 + random.below(40), tokens = 64 + random.below(80);
      for (uint32_t cols : {480 + random.below(64), 992 + random.below(64), 1024u, 1500u})
        check_matrix(isa, random_rows(random, rows, cols, kZeros[i], i % 2 == 1), format, tokens, random);
    }
    const MemoryRows m = random_rows(random, 17, 530, 0.8);
    for (uint32_t tokens = 32; tokens <= 97; ++tokens) check_matrix(isa, m, format, tokens, random);
    check_matrix(isa, random_rows(random, 300, 600, 0.7), format, 150, random);
  }
}

FILIGREE_ISA_TEST(linear_layer_sized_matrices, kIsas) {
  Random random(4);
  for (Format format : kFormats) {
    check_matrix(isa, random_rows(random, 192, 576, 0.7), format, 21, random);
    check_matrix(isa, random_rows(random, 80, 1536, 0.5), format, 5, random);
    check_matrix(isa, random_rows(random, 48, 5632, 0.7), format, 1, random);
    check_matrix(isa, random_rows(random, 150, 4203, 0.7), format, 37, random);
  }
}

FILIGREE_ISA_TEST(linear_largest_codes_do_not_saturate, kIsas) {
  Random random(8);
  for (double zeros : {0.0, 0.5, 0.8}) {
    for (uint32_t tokens : {1u, 5u, 40u}) {
      // Rows of one sign, of the other and of both, every code at 127.
      MemoryRows m(24, 400);
      for (size_t e = 0; e < m.values.size(); ++e) {
        const uint64_t kind = e / m.cols() % 3;
        const float sign = kind == 0 || (kind == 1 && random.below(2)) ? 1.0f : -1.0f;
        m.values[e] = random.below(100) < 100 * zeros ? 0.0f : sign;
      }
      check_matrix(isa, m, Format::i8, tokens, random);
    }
  }
}

FILIGREE_ISA_TEST(linear_minimum_per_group, kIsas) {
  Random random(5);
  for (int i = 0; i < 40; ++i) {
    const Format format = i % 2 ? Format::i4g32 : Format::i4g128;
    const bool masked = i % 4 >= 2;
    MemoryRows m(1 + random.below(70), 1 + random.below(300));
    m.randomize_codes(random, {4, static_cast<int>(linear::group_size(format)), true}, 0.6, masked);
    const uint32_t tokens = 1 + random.below(24);
    const Activations x(random, tokens, static_cast<uint32_t>(m.cols()), format);
    for (Layout layout : layouts_of(isa, format)) {
      if (layout == Layout::slots8 || layout == Layout::pairs) {
        check_throws<Error>([&] { pack_rows(m, format, layout); });
        continue;
      }
      const PackedMatrix packed = pack_rows(m, format, layout);
      check(packed.matrix().has_min == !(masked && layout == Layout::dense), "minimum kept");
      const std::vector<float> expected =
          run_variant(scalar(format, layout), packed.matrix(), x.view(0, tokens));
      for (const Variant* v : variants_of(isa, format, layout)) {
        if (v->min_tokens <= tokens && tokens <= v->max_tokens)
          compare(*v, packed.matrix(), x.view(0, tokens), expected, 0);
      }
    }
  }
}

// The contract of linear.h: whatever else is in the batch and whichever layout holds the matrix, a token's result has the same bits.
void check_independence(const CpuFeatures& cpu, std::string_view isa, const MemoryRows& rows,
                        const Activations& x, uint32_t tokens, Format format) {
  std::vector<float> first;
  for (Layout layout : layouts_of(isa, format)) {
    const PackedMatrix packed = pack_rows(rows, format, layout);
    const linear::Plan plan = linear::make_plan(packed.matrix(), cpu);
    for (uint32_t batch : {1u, 2u, 3u, 7u, 16u, 17u, 33u, 64u, 70u}) {
      std::vector<float> all;
      for (uint32_t t = 0; t < tokens; t += batch) {
        const uint32_t count = std::min(batch, tokens - t);
        const std::vector<float> part =
            run_variant(plan.pick(count), packed.matrix(), x.view(t, count),
                        linear::split_panels(packed.matrix(), 1, 1 + static_cast<int>(batch % 3)));
        all.insert(all.end(), part.begin(), part.end());
      }
      if (first.empty()) first = all;
      check(std::memcmp(first.data(), all.data(), first.size() * sizeof(float)) == 0,
            std::string(name_of(format)) + " " + name_of(layout) + " batch " + std::to_string(batch));
    }
  }
}

FILIGREE_ISA_TEST(linear_result_is_independent_of_batch_layout_and_split, kIsas) {
  Random random(6);
  constexpr uint32_t kTokens = 70;
  for (Format format : kFormats) {
    const MemoryRows rows = random_rows(random, 97, 260, 0.7);
    check_independence(cpu, isa, rows, Activations(random, kTokens, 260, format), kTokens, format);
  }
  // Products about the least normal number: instructions differ in what they make of denormals, the kernels of a plan may not.
  MemoryRows small = random_rows(random, 97, 260, 0.7);
  for (float& value : small.values) value *= 0x1p-126f;
  check_independence(cpu, isa, small, Activations(random, kTokens, 260, Format::bf16), kTokens, Format::bf16);
}

FILIGREE_ISA_TEST(linear_plan_serves_every_batch, kIsas) {
  for (Format format : kFormats) {
    for (Layout layout : {Layout::dense, Layout::bitmask, linear::choose_layout(format, 0.7, cpu)}) {
      const linear::MatrixSpec spec{format, layout, false, 64, 256};
      const linear::Plan plan = linear::make_plan(spec, cpu);
      for (uint32_t tokens : {1u, 2u, 15u, 16u, 17u, 63u, 64u, 65u, 100000u, UINT32_MAX}) {
        const Variant& v = plan.pick(tokens);
        check(v.min_tokens <= tokens && tokens <= v.max_tokens && v.supported(cpu), label(v, {}, tokens));
      }
      for (uint32_t tokens = 1; tokens < 80; ++tokens) {
        check(plan.workspace_bytes(80) >= plan.pick(tokens).workspace(spec, tokens),
              "workspace covers every batch");
      }
    }
    check(linear::choose_layout(format, 0.2, cpu) == Layout::dense, "few zeros: dense");
  }
}

#if FILIGREE_HAS_AVX512BF16 && FILIGREE_HAS_AVX512VNNI
FILIGREE_TEST(linear_slow_bf16_is_left_to_fma) {
  CpuFeatures intel;
  intel.avx2 = intel.avx512 = intel.avx512_vnni = intel.avx512_vbmi = intel.avx512_bf16 = true;
  const auto isa = [&] {
    return std::string_view(
        linear::make_plan({Format::bf16, Layout::bitmask, false, 64, 256}, intel).pick(1).isa);
  };
  check_equal(isa(), std::string_view("avx512bf16"));
  intel.slow_bf16 = true;
  check_equal(isa(), std::string_view("avx512vnni"));
}
#endif

FILIGREE_TEST(linear_split_is_contiguous_and_balanced) {
  Random random(7);
  for (Format format : {Format::f32, Format::i8, Format::i4g128}) {
    for (Layout layout : {Layout::dense, Layout::bitmask}) {
      const PackedMatrix packed = pack_rows(random_rows(random, 1000, 64, 0.7), format, layout);
      const uint32_t panels = linear::panel_count(packed.matrix());
      for (int parts = 1; parts <= 9; ++parts) {
        check_equal(linear::split_panels(packed.matrix(), 0, parts), 0u);
        check_equal(linear::split_panels(packed.matrix(), parts, parts), panels);
        for (int p = 0; p < parts; ++p) {
          const uint32_t begin = linear::split_panels(packed.matrix(), p, parts),
                         end = linear::split_panels(packed.matrix(), p + 1, parts);
          check(begin <= end && begin % linear::panels_per_unit(format) == 0,
                "ranges ascend on unit boundaries");
          check(std::fabs(static_cast<double>(end - begin) - static_cast<double>(panels) / parts) <= 4.0,
                "balanced");
        }
      }
    }
  }
}

// Small matrices have runs only, large ones chunks too; both leave no panel out and take none twice.
FILIGREE_TEST(linear_shares_cover_every_panel_once) {
  Random random(8);
  for (uint32_t rows : {16u, 40u, 1000u, 12000u}) {
    for (Format format : {Format::f32, Format::i8, Format::i4g128}) {
      const PackedMatrix packed = pack_rows(random_rows(random, rows, 256, 0.5), format, Layout::bitmask);
      const linear::Matrix& m = packed.matrix();
      for (uint32_t together : {1u, 2u}) {
        for (int parts = 1; parts <= 7; ++parts) {
          std::vector<int> taken(linear::panel_count(m));
          std::atomic<uint32_t> next{0};
          bool chunks = false;
          for (int part = 0; part < parts; ++part) {
            const linear::Share share = linear::share_of(m, part, parts, together);
            chunks = chunks || share.chunks_begin < share.chunks_end;
            share.take(next, [&](uint32_t begin, uint32_t end) {
              check(begin < end && begin % std::max(together, linear::panels_per_unit(format)) == 0,
                    "ranges are not empty and begin on a boundary");
              for (uint32_t panel = begin; panel < end; ++panel) ++taken.at(panel);
            });
          }
          check(std::ranges::all_of(taken, [](int times) { return times == 1; }), "every panel once");
          check_equal(chunks, parts > 1 && rows == 12000 && format != Format::i4g128);
        }
      }
    }
  }
}

// Shapes of models, whose panels may be larger than a chunk need be, among more threads than chunks.
FILIGREE_TEST(linear_shares_of_wide_matrices_end) {
  constexpr uint32_t kShapes[][2] = {{1536, 8960}, {2048, 8192}, {4096, 11008}, {4096, 14336}, {8192, 28672}};
  for (const auto& [rows, cols] : kShapes) {
    for (Format format : {Format::f32, Format::bf16, Format::i8, Format::i4g128}) {
      linear::Matrix m{};
      m.format = format, m.layout = Layout::dense, m.rows = rows, m.cols = cols;
      for (uint32_t together : {1u, 2u}) {
        for (int parts = 1; parts <= 256; ++parts) {
          std::vector<int> taken(linear::panel_count(m));
          std::atomic<uint32_t> next{0};
          for (int part = 0; part < parts; ++part) {
            const linear::Share share = linear::share_of(m, part, parts, together);
            check(share.chunk > 0, "chunks are not empty");
            if (share.chunk == 0) return;  // take() would not
            share.take(next, [&](uint32_t begin, uint32_t end) {
              for (uint32_t panel = begin; panel < end; ++panel) ++taken.at(panel);
            });
          }
          check(std::ranges::all_of(taken, [](int times) { return times == 1; }), "every panel once");
        }
      }
    }
  }
}

}  // namespace
}  // namespace filigree::test
