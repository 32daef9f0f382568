// The device's layouts, packed and unpacked on the host by the functions that also run on the device, and the launch plans.
#include <algorithm>
#include <set>
#include <vector>

#include "../cuda/problem.h"
#include "base/status.h"
#include "cuda/attention_plan.h"
#include "cuda/host_pack.h"
#include "cuda/plan.h"
#include "cuda/plan_table.h"
#include "harness.h"

namespace filigree::test {
namespace {

using namespace cuda;
using cuda::test::make_problem;
using cuda::test::Problem;
using cuda::test::Zeros;

struct Shape {
  uint32_t rows, cols;
};
constexpr Shape kShapes[] = {{1, 1}, {16, 8}, {37, 100}, {64, 1030}, {100, 576}};

// Whether the entries of a lane's chunks keep to one quantization group each, those that only bridge a distance among them.
bool keeps_to_groups(const RowLanes& m, size_t unit, uint32_t lane) {
  const uint8_t* counts = m.counts + unit * kLanes;
  const uint32_t first = static_cast<uint32_t>(unit % m.units_per_group()) * m.unit_cols;
  int64_t column = int64_t{first} - 1;
  for (uint32_t chunk = 0; chunk < counts[lane]; ++chunk) {
    const uint8_t* v = m.values + (m.offsets[unit] + size_t{chunk_place(counts, lane, chunk)}) * 8;
    int64_t group = -1;
    for (uint32_t i = 0; i < kChunk; ++i) {
      const int step = v[4 + i / 2] >> (4 * (i % 2)) & 15;
      column += step;
      if (step == 0) continue;
      if (group >= 0 && group != column / m.group) return false;
      group = column / m.group;
    }
  }
  return true;
}

// Every code of the problem, and nothing else, comes back.
void check_row_lanes(const Problem& p, uint32_t warps) {
  const HostRowLanes packed = host_pack_row_lanes(p.source(), unit_cols_for(p.cols, warps), p.group);
  const RowLanes& m = packed.view;
  std::vector<int32_t> codes(m.unit_cols);
  bool same = true;
  for (size_t unit = 0; unit < m.units(); ++unit) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      unpack_lane(m, unit, lane, codes.data());
      if (p.kind == Values::i4) same = same && keeps_to_groups(m, unit, lane);
      check(m.counts[unit * kLanes + lane] >= kLeadChunks);
      for (uint32_t c = 0; c < m.unit_cols; ++c) {
        const uint32_t row = static_cast<uint32_t>(unit / m.units_per_group()) * kLanes + lane;
        same = same &&
               codes[c] ==
                   p.source().code(row, static_cast<uint32_t>(unit % m.units_per_group()) * m.unit_cols + c);
      }
    }
  }
  check(same, "row lanes");
}

void check_bitmask(const Problem& p) {
  const HostTiles packed = host_pack_tiles(p.source(), Tiles::bitmask);
  check(packed.fits);
  const TileMatrix& m = packed.view;
  std::vector<int32_t> codes(kPositions);
  bool same = true;
  for (size_t block = 0; block < m.blocks(); ++block) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      unpack_bitmask_lane(m, m.data + size_t{m.offsets[block]} * 16, lane, codes.data());
      for (uint32_t i = 0; i < kPositions; ++i)
        same = same && codes[i] == code_at(m, p.source(), block, lane, i);
    }
  }
  check(same, "bitmask tiles");
}

// A lane's positions name every place of the block exactly once.
void check_places(Values kind) {
  TileShape s;
  s.kind = kind;
  std::vector<int> seen(size_t{16} * s.block_cols());
  std::vector<int> bits(kPositions);
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    for (uint32_t i = 0; i < kPositions; ++i) {
      uint32_t row, col, word, bit;
      fragment_place(kind, i, lane, &row, &col);
      mask_bit(kind, i, &word, &bit);
      ++seen[size_t{row} * s.block_cols() + col];
      if (lane == 0) ++bits[word * 32 + bit];
    }
  }
  check(std::count(seen.begin(), seen.end(), 1) == static_cast<ptrdiff_t>(seen.size()));
  check(std::count(bits.begin(), bits.end(), 1) == static_cast<ptrdiff_t>(bits.size()));
}

// The compressed values of a step, put back to where its metadata says (bf16: lanes 2 (step % 2) + h of a quad).
void check_two_four(const Problem& p) {
  const HostTiles packed = host_pack_tiles(p.source(), Tiles::two_four);
  check(packed.fits);
  const TileMatrix& m = packed.view;
  const bool bf16 = m.kind == Values::bf16;
  const uint32_t per = bf16 ? 2 : 4, width = 16 * per;
  bool same = true;
  for (size_t block = 0; block < m.blocks(); ++block) {
    const uint8_t* data = m.data + size_t{m.offsets[block]} * 16;
    const uint32_t* meta = reinterpret_cast<const uint32_t*>(data + 8 * 512);
    for (uint32_t step = 0; step < 8; ++step) {
      std::vector<int32_t> got(size_t{16} * width, 0);
      for (uint32_t lane = 0; lane < kLanes; ++lane) {
        for (uint32_t i = 0; i < 4 * per; ++i) {
          const uint32_t r = i / per, row = lane / 4 + 8 * (r % 2),
                         at = r / 2 * 4 * per + lane % 4 * per + i % per;
          const uint32_t four = at / 2;
          const uint32_t from =
              bf16 ? lane / 4 * 4 + 2 * (step % 2) + four / 4 : lane / 4 * 4 + four / 8 * 2 + row / 8;
          const uint32_t word = meta[(bf16 ? step / 2 : step) * 32 + from];
          const uint32_t shift = bf16 ? 16 * (row / 8) + 4 * (four % 4) : 4 * (four % 8);
          const uint32_t place = word >> (shift + 2 * (at % 2)) & 3;
          const uint8_t* v = data + step * 512 + lane * 16 + i * (4 / per);
          const int32_t code = bf16 ? v[0] | v[1] << 8 : static_cast<int8_t>(v[0]);
          if (code != 0) got[size_t{row} * width + four * 4 + place] = code;
        }
      }
      for (uint32_t row = 0; row < 16; ++row) {
        for (uint32_t c = 0; c < width; ++c) {
          same =
              same && got[size_t{row} * width + c] ==
                          p.source().code(static_cast<uint32_t>(block / m.block_columns()) * 16 + row,
                                          static_cast<uint32_t>(block % m.block_columns()) * m.block_cols() +
                                              step * width + c);
        }
      }
    }
  }
  check(same, "2:4 tiles");
}

FILIGREE_TEST(cuda_packing) {
  for (const Shape& s : kShapes) {
    for (const Values kind : {Values::bf16, Values::i8, Values::i4}) {
      for (const double zeros : {0.0, 0.5, 0.7, 0.97, 1.0}) {
        const Zeros shape = zeros == 0.97 ? Zeros::rows : Zeros::random;
        const Problem p = make_problem(kind, s.rows, s.cols, 32, zeros, shape, 1, s.rows + s.cols);
        check_row_lanes(p, 16);
        check_row_lanes(p, 32);
        if (kind == Values::i4) {
          check_row_lanes(make_problem(kind, s.rows, s.cols, 128, zeros, shape, 1, 11), 16);
          continue;
        }
        check_bitmask(p);
        check_two_four(make_problem(kind, s.rows, s.cols, 32, zeros, Zeros::two_four, 1, 5));
      }
    }
  }
  check_places(Values::bf16);
  check_places(Values::i8);
  check(
      !host_pack_tiles(make_problem(Values::i8, 16, 8, 32, 0, Zeros::random, 1, 1).source(), Tiles::two_four)
           .fits,
      "a dense matrix is not 2:4");
}

// The codes of a matrix as the CPU packs it are read through PanelCodes: see the linear fixture's layouts.
FILIGREE_TEST(cuda_panel_codes) {
  const Problem p = make_problem(Values::i4, 64, 96, 32, 0.5, Zeros::random, 1, 3);
  std::vector<uint8_t> bytes(size_t{64} * 96 / 2);
  for (uint32_t r = 0; r < 64; ++r) {
    for (uint32_t c = 0; c < 96; ++c) {
      const size_t at = (size_t{r / 32} * 24 + c / 4) * 64 + r % 16 * 4 + c % 4;
      bytes[at] |= static_cast<uint8_t>((p.codes[size_t{r} * 96 + c] + 8) << (r % 32 < 16 ? 0 : 4));
    }
  }
  const PanelCodes source{Values::i4, 64, 96, 24, bytes.data()};
  bool same = true;
  for (uint32_t r = 0; r < 64; ++r) {
    for (uint32_t c = 0; c < 96; ++c) same = same && source.code(r, c) == p.source().code(r, c);
  }
  check(same);
}

FILIGREE_TEST(cuda_plans) {
  const DeviceLimits device;
  // A row group a multiprocessor or fewer: one large block each. More: smaller blocks, several at once.
  check(row_lanes_warps(4096, 4096, device) == 32);
  check(row_lanes_warps(12288, 4096, device) == 16);
  check(row_lanes_warps(576, 576, device) == 16, "too narrow for 32 warps");
  for (const auto& [rows, cols] :
       {std::pair{12288u, 4096u}, {4096u, 4096u}, {22016u, 4096u}, {4096u, 11008u}, {33u, 9u}}) {
    for (const Values kind : {Values::bf16, Values::i8}) {
      for (const Tiles tiles : {Tiles::bitmask, Tiles::two_four, Tiles::dense}) {
        TileMatrix m;
        m.kind = kind, m.tiles = tiles, m.rows = rows, m.cols = cols;
        m.lead = 7, m.most = kTileClasses[kind == Values::bf16 ? 0 : 1][0].most, m.most_bytes = 4608;
        for (const uint32_t tokens : {1u, 8u, 9u, 16u, 32u}) {
          const std::vector<TilePlan> all = tile_plans(m, tokens, device);
          check(!all.empty(), "a plan for every shape");
          for (const TilePlan& p : all) {
            check(p.token_tiles * 8 >= tokens);
            check(p.slices * p.slice_blocks >= m.block_columns() &&
                      (p.slices - 1) * p.slice_blocks < m.block_columns(),
                  "slices cover the columns, none is empty");
            check(p.slices * p.blocks_per_slice <= device.multiprocessors && p.blocks_per_slice > 0);
            check(tile_shared_bytes(m, tokens, p) <= device.shared_bytes);
            check(p.warps % p.parts == 0 && p.parts <= p.slice_blocks);
          }
        }
        check(tile_plans(m, 33, device).empty(), "more tokens than the kernel takes");
        check(tile_plans(m, 8, {132, 16 << 10}).empty(), "a device with too little shared memory");
      }
    }
  }
  TileClass found;
  check(tile_class_for(Values::bf16, 17, &found) && found.most == 17);
  check(tile_class_for(Values::bf16, 18, &found) && found.most == 24);
  check(tile_class_for(Values::i8, 16, &found) && found.most == 16);
  check(!tile_class_for(Values::i8, 17, &found));
}

FILIGREE_TEST(cuda_decode_splits) {
  check_equal(decode_split(1, 32, 576, 132), 64u, "one sequence: as many blocks as there can be");
  check_equal(decode_split(16, 32, 576, 132), 1024u, "many: one split each");
  check_equal(decode_split(16, 8, 576, 132), 256u);
  check_equal(decode_split(1, 1, 131072, 132), 1024u, "no more splits than there is room for");
  for (const uint32_t rows : {1u, 7u, 32u}) {
    for (const uint32_t heads : {1u, 8u, 32u}) {
      for (uint32_t longest = 1; longest < 300000; longest = longest * 3 + 1) {
        const uint32_t positions = decode_split(rows, heads, longest, 132);
        check(positions >= 64 && (positions & (positions - 1)) == 0 &&
              ceil_div(longest, positions) <= kMostDecodeSplits);
      }
    }
  }
}

FILIGREE_TEST(cuda_attention_plans) {
  AttentionPlan plan;
  const AttentionGrid llama2{1, 32, 512, 0, 132}, llama3{4, 8, 512, 0, 132};
  plan_attention({{0, 512, 0}}, llama2, &plan);
  check_equal(plan.tiles.size(), size_t{8});
  check_equal(plan.slots, 0u, "one split");
  check_equal(plan.tiles[0].position, 448, "the longest first");
  plan_attention({{0, 64, 8128}}, llama2, &plan);
  check_equal(plan.splits, 16u, "few rows, a long context: divided");
  check_equal(plan.slots, 64u * 16);
  plan_attention({{0, 8192, 0}}, llama3, &plan);
  check_equal(plan.tiles.size(), size_t{512}, "16 rows of four heads");
  check_equal(plan.splits, 1u, "enough tiles to fill the device");
  check_equal(plan.slots, 8192u - 512);
  for (const AttentionGrid& grid : {llama2, llama3, AttentionGrid{7, 1, 64, 1000, 16}}) {
    for (uint32_t seed = 1; seed < 200; ++seed) {
      uint32_t random = seed * 2654435761u, rows = 0;
      std::vector<AttentionRun> runs;
      for (uint32_t i = 0; i < seed % 7 + 1; ++i) {
        random = random * 1664525 + 1013904223;
        const uint32_t of = seed % 3 == 0 ? 1 : (random >> 8) % 300 + 1;
        runs.push_back({rows, of, (random >> 16) % (8192 - of)});
        rows += of;
      }
      plan_attention(runs, grid, &plan);
      const uint32_t splits = 8192 / grid.split_positions;
      check(plan.slots <= most_attention_slots(rows, splits, grid), "slots");
      check(plan.splits <= splits, "splits");
      std::vector<bool> taken(rows);
      for (const AttentionTile& tile : plan.tiles) {
        check(tile.rows * grid.group <= kTileQueries, "queries of a tile");
        for (uint32_t r = tile.row; r < tile.row + tile.rows; ++r) {
          check(!taken[r], "a row in two tiles");
          taken[r] = true;
        }
      }
      check(std::find(taken.begin(), taken.end(), false) == taken.end(), "a row in no tile");
    }
  }
}

FILIGREE_TEST(cuda_plans_that_were_measured_come_first) {
  TileMatrix m;
  m.rows = 12288, m.cols = 4096;
  m.lead = 7, m.most = kTileClasses[0][0].most, m.most_bytes = 4608;
  DeviceLimits device;
  const std::vector<TilePlan> all = tile_plans(m, 16, device);
  check(all.size() > 3, "several plans to choose from");
  std::set<std::string> names;
  for (const TilePlan& p : all) {
    PlanTable one;
    one.gpus["a"].put(m, p);
    names.insert(one.text());
  }
  check_equal(names.size(), all.size(), "each plan has a name of its own");
  const TilePlan& last = all.back();
  PlanTable table;
  table.gpus["NVIDIA H200"].put(m, last);
  const PlanTable read = PlanTable::parse(table.text());
  check_equal(read.text(), table.text());
  device.tuned = &read.gpus.at("NVIDIA H200");
  const std::vector<TilePlan> tuned = tile_plans(m, 16, device);
  check_equal(tuned.size(), all.size());
  const auto same = [](const TilePlan& a, const TilePlan& b) {
    return a.warps == b.warps && a.stages == b.stages && a.slice_blocks == b.slice_blocks &&
           a.parts == b.parts;
  };
  check(same(tuned[0], last), "the measured one is first");
  check(same(tuned[1], all[0]), "the others keep their order");
  check(same(tile_plans(m, 8, device)[0], tile_plans(m, 8, {})[0]),
        "other numbers of tokens are as they were");
  m.rows += 16;
  check(same(tile_plans(m, 16, device)[0], tile_plans(m, 16, {})[0]), "so are other matrices");

  check(PlanTable::parse("").gpus.empty());
  const std::string title = "filigree launch shapes 1\n";
  for (const char* const bad : {"nonsense\n", "filigree launch shapes 2\n",
                                "filigree launch shapes 1\nbf16 bitmask 17 1x1 8: 1 warps\n"})
    check_throws<Error>([&] { PlanTable::parse(bad); }, bad);
  check_throws<Error>([&] { PlanTable::parse(title + "[a]\nbf16 bitmask 17 1x1 8: 1 warps, stages\n"); });
  check_throws<Error>(
      [&] { PlanTable::parse(title + "[a]\nbf16 bitmask 17 1x1 9: 1 warps, 1 stages, 1 blocks"); });
  // What fits no launch of this build or device is no reason to fail.
  const PlanTable strange =
      PlanTable::parse(title + "[a]\nbf16 bitmask 17 12304x4096 16: 99 warps, 1 stages, 1 blocks\n");
  device.tuned = &strange.gpus.at("a");
  check(same(tile_plans(m, 16, device)[0], tile_plans(m, 16, {})[0]), "a shape that does not exist");
}

}  // namespace
}  // namespace filigree::test
