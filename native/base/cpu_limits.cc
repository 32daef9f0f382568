#include "base/cpu_limits.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

namespace filigree {
namespace {

bool read_word(const std::string& path, std::string* first, std::string* second) {
  std::ifstream in(path);
  if (!(in >> *first)) return false;
  if (second && !(in >> *second)) return false;
  return true;
}

double ratio(const std::string& quota, const std::string& period) {
  try {
    const double q = std::stod(quota), p = std::stod(period);
    return q > 0 && p > 0 ? q / p : 0;
  } catch (const std::exception&) {
    return 0;  // "max", or something we do not understand: no limit
  }
}

double limit_v2(const std::string& folder) {
  std::string quota, period;
  return read_word(folder + "/cpu.max", &quota, &period) ? ratio(quota, period) : 0;
}

double limit_v1(const std::string& folder) {
  std::string quota, period;
  if (!read_word(folder + "/cpu.cfs_quota_us", &quota, nullptr)) return 0;
  if (!read_word(folder + "/cpu.cfs_period_us", &period, nullptr)) return 0;
  return ratio(quota, period);
}

void take_smaller(double* limit, double found) {
  if (found > 0 && (*limit == 0 || found < *limit)) *limit = found;
}

// `path` and each of its parents up to the mount: a parent's limit binds too. Inside a container the path may not exist
// below the mount; the mount itself is the container's group then.
template <class Read>
void walk_up(const std::string& mount, std::string path, Read read, double* limit) {
  while (true) {
    take_smaller(limit, read(mount + (path == "/" ? "" : path)));
    if (path.empty() || path == "/") return;
    path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
}

}  // namespace

int affinity_cpus() {
#if defined(__linux__)
  for (int cpus = 1024; cpus <= (1 << 20); cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (!set) break;
    const size_t bytes = CPU_ALLOC_SIZE(cpus);
    CPU_ZERO_S(bytes, set);
    const bool ok = sched_getaffinity(0, bytes, set) == 0;
    const int count = ok ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (ok && count > 0) return count;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

double cgroup_cpus(const std::string& proc_cgroup, const std::string& root) {
  double limit = 0;
  std::istringstream lines(proc_cgroup);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1),
                      path = line.substr(second + 1);
    if (path.find("..") != std::string::npos) continue;
    if (controllers.empty()) {
      walk_up(root, path, limit_v2, &limit);
      walk_up(root + "/unified", path, limit_v2, &limit);
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      walk_up(root + "/" + controllers, path, limit_v1, &limit);
      walk_up(root + "/cpu", path, limit_v1, &limit);
    }
  }
  return limit;
}

}  // namespace filigree
