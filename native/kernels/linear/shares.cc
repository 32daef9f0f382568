#include "kernels/linear/shares.h"

#include <algorithm>

namespace filigree::linear {
namespace {

// A chunk's streams start cold: about a microsecond. This many bytes take five to ten.
constexpr uint64_t kLeastChunkBytes = 192 << 10;
// Runs are three quarters of the bytes, the fourth is in common.
constexpr int kQuarters = 4;
// Chunks for each thread: enough that the last ones end close together.
constexpr uint32_t kChunksPerPart = 3;
// Kernels walk four panels together, so a chunk is whole fours of them.
constexpr uint32_t kTogether = 4;

// Bytes of a matrix's masks and values before a unit of panels.
uint64_t bytes_before(const Matrix& m, uint32_t unit) {
  const uint64_t tiles = uint64_t{unit} * tile_count(m);
  if (m.layout == Layout::dense) return tiles * kPanelRows * tile_cols(m.format) * value_bytes(m.format);
  const uint64_t masks = m.masks == nullptr ? 0 : tiles * masks_per_unit(m) * mask_bytes(m.format);
  return masks + m.offsets[unit];
}

}  // namespace

uint32_t split_panels(const Matrix& m, int part, int parts) {
  const uint32_t per_unit = panels_per_unit(m.format), units = panel_count(m) / per_unit;
  if (part <= 0) return 0;
  if (part >= parts) return units * per_unit;
  const uint64_t goal = bytes_before(m, units) / static_cast<uint64_t>(parts) * static_cast<uint64_t>(part);
  uint32_t low = 0, high = units;
  while (low < high) {
    const uint32_t middle = (low + high) / 2;
    if (bytes_before(m, middle) < goal) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  // Whole fours where a part has many.
  const uint32_t four = kTogether / per_unit;
  if (units >= 16 * four * static_cast<uint32_t>(parts)) low = (low + four / 2) / four * four;
  return low * per_unit;
}

Share share_of(const Matrix& m, int part, int parts, uint32_t together) {
  const uint32_t panels = panel_count(m);
  together = std::max(together, panels_per_unit(m.format));
  const auto boundary = [&](int at, int of) {
    return at >= of ? panels : split_panels(m, at, of) / together * together;
  };
  const uint64_t bytes = bytes_before(m, panels / panels_per_unit(m.format));
  if (parts < 2 || bytes / kQuarters < 2 * kLeastChunkBytes)
    return {boundary(part, parts), boundary(part + 1, parts), panels, panels, 1};
  constexpr int kRuns = kQuarters - 1;
  const uint32_t runs_end = boundary(kRuns, kQuarters), rest = panels - runs_end;
  const auto run_begin = [&](int at) {
    return at == parts ? runs_end : std::min(boundary(kRuns * at, kQuarters * parts), runs_end);
  };
  // A panel may be more bytes than a chunk need be, and the panels in common fewer than the threads: a chunk is one panel at least.
  const uint64_t least = std::max<uint64_t>(kLeastChunkBytes * panels / bytes, 1);
  const uint64_t chunk = std::max<uint64_t>(rest / (kChunksPerPart * static_cast<uint32_t>(parts)), least);
  return {run_begin(part), run_begin(part + 1), runs_end, panels,
          static_cast<uint32_t>((chunk + kTogether - 1) / kTogether * kTogether)};
}

}  // namespace filigree::linear
