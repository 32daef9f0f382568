#include "engine/packed_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <span>

#include "base/file.h"
#include "base/status.h"
#include "base/thread_pool.h"

namespace filigree {
namespace {

constexpr char kMagic[8] = {'F', 'G', 'P', 'A', 'C', 'K', 'S', '\n'};
constexpr uint64_t kVersion = 1;
// One more whenever choose_layout decides otherwise for the same instruction set.
constexpr int kLayoutChoice = 3;
constexpr uint64_t kPage = 4096;
constexpr uint64_t kMostHead = uint64_t{1} << 30;

struct Preamble {
  char magic[8];
  uint64_t version, head_bytes, head_checksum;
};

struct Extent {
  uint64_t offset, bytes;
};

// FNV-1a, 64 bits: finds damage, not malice.
uint64_t fnv1a(std::span<const char> bytes) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3ull;
  return hash;
}

void append(std::string& head, const void* data, size_t bytes) {
  head.append(static_cast<const char*>(data), bytes);
}

[[noreturn]] void damaged(const std::string& what) {
  throw Error(ErrorCode::corrupt_data, "packed cache: " + what);
}

// Takes consecutive pieces of the head.
class HeadReader {
 public:
  explicit HeadReader(std::span<const char> head) : left_(head) {}
  void take(void* out, size_t bytes) {
    if (bytes > left_.size()) damaged("its head is too short");
    std::memcpy(out, left_.data(), bytes);
    left_ = left_.subspan(bytes);
  }
  uint64_t number() {
    uint64_t value;
    take(&value, sizeof value);
    return value;
  }
  size_t left() const { return left_.size(); }

 private:
  std::span<const char> left_;
};

// A temporary file that disappears unless it is kept.
class Draft {
 public:
  explicit Draft(const std::string& path) : path_(path + ".tmp-" + std::to_string(getpid())), final_(path) {
    fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) fail("create");
  }
  ~Draft() {
    if (fd_ >= 0) close(fd_);
    if (!kept_) unlink(path_.c_str());
  }
  void write(const void* data, size_t bytes) {
    for (const char* at = static_cast<const char*>(data); bytes > 0;) {
      const ssize_t done = ::write(fd_, at, std::min<size_t>(bytes, size_t{1} << 30));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) fail("write");
      at += done;
      bytes -= static_cast<size_t>(done);
      position_ += static_cast<uint64_t>(done);
    }
  }
  void pad_to(uint64_t offset) {
    static constexpr char kZeros[kPage] = {};
    if (offset > position_) write(kZeros, offset - position_);
  }
  void keep() {
    const int closed = close(fd_);
    fd_ = -1;
    if (closed != 0) fail("write");
    if (rename(path_.c_str(), final_.c_str()) != 0) fail("rename");
    kept_ = true;
  }

 private:
  [[noreturn]] void fail(const char* what) {
    throw Error(ErrorCode::io, std::string("cannot ") + what + " " + path_ + ": " + std::strerror(errno));
  }
  std::string path_, final_;
  int fd_ = -1;
  uint64_t position_ = 0;
  bool kept_ = false;
};

uint64_t page_up(uint64_t offset) { return (offset + kPage - 1) / kPage * kPage; }

}  // namespace

std::string packed_cache_key(const ModelDescription& model, const WeightOptions& options,
                             const WeightPlan& plan) {
  std::string key = "source " + model.source_key + "\nisa " + options.isa + "\nmatrix version " +
                    std::to_string(kPackedVersion) + "\nlayout choice " + std::to_string(kLayoutChoice);
  for (const MatrixPlan& m : plan.matrices) {
    key += "\n" + m.key() + " " + std::to_string(m.rows) + "x" + std::to_string(m.cols) + " " +
           linear::name_of(m.format) + " " + (m.layout ? linear::name_of(*m.layout) : "by zeros");
  }
  for (const VectorPlan& v : plan.vectors) key += "\n" + v.tensor->name + " " + std::to_string(v.length);
  return key;
}

std::string packed_cache_path(const std::string& folder, const std::string& key) {
  char name[32];
  std::snprintf(name, sizeof name, "%016llx.packed", static_cast<unsigned long long>(fnv1a(key)));
  return folder + "/" + name;
}

bool read_packed_cache(const std::string& path, const std::string& key, const WeightPlan& plan,
                       PackedWeights& weights, ThreadPool& pool, const LoadProgress& progress) {
  if (!std::filesystem::exists(path)) return false;
  const File file = File::open(path);
  Preamble preamble;
  if (file.size() < sizeof preamble) damaged("it is too short");
  file.read_at(0, &preamble, sizeof preamble);
  if (std::memcmp(preamble.magic, kMagic, sizeof kMagic) != 0) damaged("it is a file of another kind");
  if (preamble.version != kVersion) damaged("it has version " + std::to_string(preamble.version));
  if (preamble.head_bytes > kMostHead || preamble.head_bytes > file.size() - sizeof preamble)
    damaged("its head is too long");
  std::vector<char> head(preamble.head_bytes);
  file.read_at(sizeof preamble, head.data(), head.size());
  if (fnv1a(head) != preamble.head_checksum) damaged("the checksum of its head differs");

  HeadReader reader(head);
  std::string found(std::min<uint64_t>(reader.number(), reader.left()), '\0');
  reader.take(found.data(), found.size());
  if (found != key) damaged("it belongs to another model or another form");
  for (const VectorPlan& v : plan.vectors) {
    std::vector<float>& vector = weights.vectors.emplace_back(v.length);
    reader.take(vector.data(), vector.size() * sizeof(float));
  }
  std::vector<Extent> extents(plan.matrices.size());
  uint64_t total = 0;
  for (Extent& e : extents) {
    reader.take(&e, sizeof e);
    if (e.offset > file.size() || e.bytes > file.size() - e.offset) damaged("a matrix lies outside it");
    total += e.bytes;
  }
  weights.matrices.resize(plan.matrices.size());
  std::atomic<size_t> next{0};
  std::atomic<uint64_t> done{0};
  std::mutex report;
  pool.run([&](int, int) {
    for (size_t i; (i = next.fetch_add(1)) < extents.size();) {
      AlignedBuffer blob(extents[i].bytes);
      file.read_at(extents[i].offset, blob.data(), blob.size());
      PackedMatrix matrix(std::move(blob));
      const linear::Matrix& m = matrix.matrix();
      const MatrixPlan& expected = plan.matrices[i];
      if (m.rows != expected.rows || m.cols != expected.cols || m.format != expected.format ||
          (expected.layout && m.layout != *expected.layout)) {
        damaged("a matrix has another form than its place wants");
      }
      weights.matrices[i] = std::move(matrix);
      const uint64_t so_far = done.fetch_add(extents[i].bytes) + extents[i].bytes;
      if (progress) {
        const std::lock_guard lock(report);
        progress(so_far, total);
      }
    }
  });
  return true;
}

void write_packed_cache(const std::string& path, const std::string& key, const PackedWeights& weights) {
  std::string head;
  const uint64_t key_bytes = key.size();
  append(head, &key_bytes, sizeof key_bytes);
  head += key;
  for (const std::vector<float>& v : weights.vectors) append(head, v.data(), v.size() * sizeof(float));
  std::vector<Extent> extents;
  uint64_t offset = page_up(sizeof(Preamble) + head.size() + weights.matrices.size() * sizeof(Extent));
  for (const PackedMatrix& m : weights.matrices) {
    extents.push_back({offset, m.blob().size()});
    offset = page_up(offset + m.blob().size());
  }
  append(head, extents.data(), extents.size() * sizeof(Extent));
  Preamble preamble{};
  std::memcpy(preamble.magic, kMagic, sizeof kMagic);
  preamble.version = kVersion;
  preamble.head_bytes = head.size();
  preamble.head_checksum = fnv1a(head);

  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  Draft draft(path);
  draft.write(&preamble, sizeof preamble);
  draft.write(head.data(), head.size());
  for (size_t i = 0; i < extents.size(); ++i) {
    draft.pad_to(extents[i].offset);
    draft.write(weights.matrices[i].blob().data(), extents[i].bytes);
  }
  draft.keep();
}

}  // namespace filigree
