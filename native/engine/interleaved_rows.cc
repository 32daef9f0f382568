#include "engine/interleaved_rows.h"

#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "kernels/linear/linear.h"

namespace filigree {
namespace {

constexpr uint64_t kRun = linear::kPanelRows;

class InterleavedRows final : public RowSource {
 public:
  InterleavedRows(const RowSource& first, const RowSource& second) : half_{&first, &second} {}

  uint64_t rows() const override { return (half_[0]->rows() + kRun - 1) / kRun * kRun * 2; }
  uint64_t cols() const override { return half_[0]->cols(); }
  std::optional<SourceCodes> codes() const override { return half_[0]->codes(); }
  bool masked() const override { return half_[0]->masked() && half_[1]->masked(); }

  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    each_run(row, n, [&](const RowSource& half, uint64_t from, uint64_t stored, uint64_t padding) {
      if (stored > 0) half.read_f32(from, stored, out);
      std::fill_n(out + stored * cols(), padding * cols(), 0.0f);
      out += (stored + padding) * cols();
    });
  }

  void read_codes(uint64_t row, uint64_t n, int8_t* codes, float* scales, float* mins) const override {
    const uint64_t group = static_cast<uint64_t>(half_[0]->codes()->group);
    const uint64_t groups = group == 0 ? 1 : (cols() + group - 1) / group;
    each_run(row, n, [&](const RowSource& half, uint64_t from, uint64_t stored, uint64_t padding) {
      if (stored > 0) half.read_codes(from, stored, codes, scales, mins);
      std::memset(codes + stored * cols(), 0, padding * cols());
      std::fill_n(scales + stored * groups, padding * groups, 0.0f);
      codes += (stored + padding) * cols();
      scales += (stored + padding) * groups;
      if (mins == nullptr) return;
      std::fill_n(mins + stored * groups, padding * groups, 0.0f);
      mins += (stored + padding) * groups;
    });
  }

  void read_mask(uint64_t row, uint64_t n, uint8_t* bits) const override {
    const uint64_t bytes = (cols() + 7) / 8;
    each_run(row, n, [&](const RowSource& half, uint64_t from, uint64_t stored, uint64_t padding) {
      if (stored > 0) half.read_mask(from, stored, bits);
      std::memset(bits + stored * bytes, 0, padding * bytes);
      bits += (stored + padding) * bytes;
    });
  }

 private:
  // visit(half, first row in it, rows it holds, rows of padding) for each stretch within one run.
  template <class Visit>
  void each_run(uint64_t row, uint64_t n, Visit visit) const {
    if (row > rows() || n > rows() - row) throw Error(ErrorCode::invalid_argument, "rows out of range");
    for (const uint64_t end = row + n; row < end;) {
      const uint64_t run = row / kRun, within = row % kRun, count = std::min(kRun - within, end - row);
      const RowSource& half = *half_[run % 2];
      const uint64_t from = run / 2 * kRun + within;
      const uint64_t stored = from >= half.rows() ? 0 : std::min(count, half.rows() - from);
      visit(half, from, stored, count - stored);
      row += count;
    }
  }

  const RowSource* half_[2];
};

bool same(const std::optional<SourceCodes>& a, const std::optional<SourceCodes>& b) {
  if (a.has_value() != b.has_value()) return false;
  return !a || (a->bits == b->bits && a->group == b->group && a->has_min == b->has_min);
}

}  // namespace

std::unique_ptr<RowSource> interleave_rows(const RowSource& first, const RowSource& second) {
  if (first.rows() != second.rows() || first.cols() != second.cols() ||
      !same(first.codes(), second.codes())) {
    throw Error(ErrorCode::invalid_argument,
                "only matrices of one shape and one encoding can be interleaved");
  }
  return std::make_unique<InterleavedRows>(first, second);
}

}  // namespace filigree
