#include "cuda/plan_table.h"

#include <algorithm>
#include <regex>

#include "base/status.h"

namespace filigree::cuda {
namespace {

constexpr const char* kTitle = "filigree launch shapes 1";

std::string key_of(const TileMatrix& m, uint32_t token_tiles) {
  static constexpr const char* kKinds[] = {"bf16", "i8", "i4"};
  return std::string(kKinds[static_cast<int>(m.kind)]) + " " + tiles_name(m.tiles) + " " +
         std::to_string(m.most) + " " + std::to_string(m.rows) + "x" + std::to_string(m.cols) + " " +
         std::to_string(8 * token_tiles);
}

// All by which tile_plans() tells one from another.
std::string name_of(const TilePlan& p) {
  return std::to_string(p.warps) + " warps, " + std::to_string(p.stages) + " stages, " +
         std::to_string(p.slice_blocks) + " blocks, " + std::to_string(p.parts) + " parts";
}

}  // namespace

void GpuPlans::put(const TileMatrix& m, const TilePlan& plan) {
  launches_[key_of(m, plan.token_tiles)] = name_of(plan);
}

void GpuPlans::prefer(const TileMatrix& m, uint32_t tokens, std::vector<TilePlan>& plans) const {
  if (plans.empty()) return;
  const auto entry = launches_.find(key_of(m, plans[0].token_tiles));
  if (entry == launches_.end()) return;
  const auto found = std::find_if(plans.begin(), plans.end(),
                                  [&](const TilePlan& p) { return name_of(p) == entry->second; });
  if (found != plans.end()) std::rotate(plans.begin(), found, found + 1);
}

PlanTable PlanTable::parse(std::string_view text) {
  static const std::regex gpu_form(R"(\[([^\]\n]{1,200})\])");
  static const std::regex launch_form(
      R"(((?:bf16|i8|i4) (?:bitmask|2:4|dense) \d{1,9} \d{1,9}x\d{1,9} (?:8|16|32)): (\d{1,9} \w+(?:, \d{1,9} \w+)*))");
  PlanTable table;
  GpuPlans* gpu = nullptr;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string line(text.substr(0, std::min<size_t>(end, 400)));
    text.remove_prefix(std::min(end + 1, text.size()));
    std::smatch found;
    if (number == 1 && line == kTitle) continue;
    if (number > 1 && std::regex_match(line, found, gpu_form)) {
      gpu = &table.gpus[found[1]];
    } else if (gpu && std::regex_match(line, found, launch_form)) {
      gpu->launches_[found[1]] = found[2];
    } else {
      throw Error(ErrorCode::corrupt_data, "line " + std::to_string(number) +
                                               " of the launch shapes is none: '" + line.substr(0, 80) + "'");
    }
  }
  return table;
}

std::string PlanTable::text() const {
  std::string text = kTitle + std::string("\n");
  for (const auto& [gpu, plans] : gpus) {
    text += "[" + gpu + "]\n";
    for (const auto& [key, launch] : plans.launches_) text += key + ": " + launch + "\n";
  }
  return text;
}

}  // namespace filigree::cuda
