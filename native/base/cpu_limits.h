#pragma once

#include <string>

namespace filigree {

// Processors that this thread may run on.
int affinity_cpus();

// CPU time the control group grants, in processors, or 0 if unlimited. Version 2 (cpu.max) and version 1 (cpu.cfs_quota_us),
// the smallest limit from the group up to the root. `proc_cgroup` is the text of /proc/self/cgroup, `root` where the
// hierarchy is mounted: arguments so that tests can build one.
double cgroup_cpus(const std::string& proc_cgroup, const std::string& root);

}  // namespace filigree
