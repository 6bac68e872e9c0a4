#include "pavise/signing/outboard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/status.h"

namespace pavise::signing {
namespace {

using ::testing::HasSubstr;
using ::testing::Optional;

constexpr uint64_t kMiB = hash::kSubtreeBytes;
constexpr size_t kHeaderBytes = 32;

hash::ChainingValue Value(uint8_t fill) {
  hash::ChainingValue value;
  value.fill(fill);
  return value;
}

OutboardFile Small(uint64_t size_bytes, uint8_t fill) {
  OutboardFile file;
  file.size_bytes = size_bytes;
  file.root = Value(fill);
  return file;
}

// A file of `count` ranges (at least 2), the last one byte long.
OutboardFile Large(size_t count) {
  OutboardFile file;
  file.size_bytes = (count - 1) * kMiB + 1;
  for (size_t i = 0; i < count; ++i) file.subtrees.push_back(Value(static_cast<uint8_t>(i + 1)));
  file.root = hash::Blake3RootFromSubtrees(file.subtrees);
  return file;
}

Outboard SmallOutboard() {
  Outboard outboard;
  outboard.hashed_at = absl::FromUnixNanos(1'700'000'000'123'456'789);
  outboard.files["a"] = Small(5, 0x11);
  outboard.files["b/c"] = Large(2);
  return outboard;
}

Bytes Format(const Outboard& outboard) {
  auto bytes = FormatOutboard(outboard);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.value_or(Bytes());
}

absl::StatusOr<Outboard> Parse(ByteSpan bytes) { return ParseOutboard(bytes, "model.sig.tree"); }

void ExpectRefused(ByteSpan bytes, Reason reason) {
  const auto parsed = Parse(bytes);
  ASSERT_FALSE(parsed.ok());
  EXPECT_THAT(ReasonOf(parsed.status()), Optional(reason)) << parsed.status();
  EXPECT_THAT(RefusalsOf(parsed.status())[0].item, HasSubstr("model.sig.tree"));
}

void ExpectSame(const Outboard& a, const Outboard& b) {
  EXPECT_EQ(a.hashed_at, b.hashed_at);
  ASSERT_EQ(a.files.size(), b.files.size());
  for (auto left = a.files.begin(), right = b.files.begin(); left != a.files.end();
       ++left, ++right) {
    EXPECT_EQ(left->first, right->first);
    EXPECT_EQ(left->second.size_bytes, right->second.size_bytes);
    EXPECT_EQ(left->second.root, right->second.root);
    EXPECT_EQ(left->second.subtrees, right->second.subtrees);
  }
}

Bytes With(Bytes bytes, size_t offset, std::vector<uint8_t> replacement) {
  std::copy(replacement.begin(), replacement.end(), bytes.begin() + static_cast<ptrdiff_t>(offset));
  return bytes;
}

// Whole files by hand: header and entries without any check.
class Builder {
 public:
  explicit Builder(uint64_t count, uint32_t version = 1, uint32_t log2 = 20) {
    const std::string_view magic = "PAVISEOB";
    bytes_.assign(magic.begin(), magic.end());
    AppendLittleEndian32(version, bytes_);
    AppendLittleEndian32(log2, bytes_);
    AppendLittleEndian64(0, bytes_);
    AppendLittleEndian64(count, bytes_);
  }
  Builder& File(std::string_view path, const OutboardFile& file) {
    AppendLittleEndian32(static_cast<uint32_t>(path.size()), bytes_);
    bytes_.insert(bytes_.end(), path.begin(), path.end());
    AppendLittleEndian64(file.size_bytes, bytes_);
    bytes_.insert(bytes_.end(), file.root.begin(), file.root.end());
    for (const auto& value : file.subtrees) bytes_.insert(bytes_.end(), value.begin(), value.end());
    return *this;
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

// docs/formats/outboard.md, byte by byte.
TEST(OutboardTest, Layout) {
  const Bytes bytes = Format(SmallOutboard());
  ASSERT_EQ(bytes.size(), 32u + (4 + 1 + 40) + (4 + 3 + 40 + 64));
  EXPECT_EQ(AsText(ByteSpan(bytes).first(8)), "PAVISEOB");
  EXPECT_EQ(ToHex(ByteSpan(bytes).subspan(8, 24)),
            "01000000"          // version
            "14000000"          // 2^20 bytes a subtree
            "15cd853dfe9c9717"  // 1,700,000,000,123,456,789 ns
            "0200000000000000");
  EXPECT_EQ(ToHex(ByteSpan(bytes).subspan(32, 13)),
            "01000000"
            "61"
            "0500000000000000");
  EXPECT_EQ(ToHex(ByteSpan(bytes).subspan(77, 15)),
            "03000000"
            "622f63"
            "0100100000000000");
}

TEST(OutboardTest, ReadsBackWhatItWrites) {
  Outboard outboard = SmallOutboard();
  outboard.files["empty"] = Small(0, 0x22);
  outboard.files["limit"] = Small(kMiB, 0x33);
  outboard.files["z\xc3\xa9/\n"] = Large(7);
  const Bytes bytes = Format(outboard);
  const auto parsed = Parse(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ExpectSame(outboard, *parsed);
  EXPECT_EQ(Format(*parsed), bytes);

  Outboard single;
  single.hashed_at = absl::UnixEpoch() - absl::Nanoseconds(1);
  single.files["."] = Large(3);
  const auto parsed_single = Parse(Format(single));
  ASSERT_TRUE(parsed_single.ok()) << parsed_single.status();
  ExpectSame(single, *parsed_single);

  const auto parsed_empty = Parse(Format(Outboard()));
  ASSERT_TRUE(parsed_empty.ok()) << parsed_empty.status();
  EXPECT_TRUE(parsed_empty->files.empty());
}

TEST(OutboardTest, CountsOfChainingValues) {
  const struct {
    uint64_t size_bytes;
    size_t values;
  } cases[] = {{0, 0},        {1, 0},        {kMiB - 1, 0},     {kMiB, 0},
               {kMiB + 1, 2}, {2 * kMiB, 2}, {2 * kMiB + 1, 3}, {70 * kMiB - 1, 70}};
  for (const auto& [size_bytes, values] : cases) {
    SCOPED_TRACE(size_bytes);
    OutboardFile file = Small(size_bytes, 1);
    for (size_t i = 0; i < values; ++i) file.subtrees.push_back(Value(static_cast<uint8_t>(i)));
    if (values > 0) file.root = hash::Blake3RootFromSubtrees(file.subtrees);
    const Bytes right = Builder(1).File("f", file).bytes();
    EXPECT_TRUE(Parse(right).ok());

    OutboardFile more = file;
    more.subtrees.push_back(Value(9));
    const Bytes too_long = Builder(1).File("f", more).bytes();
    ExpectRefused(too_long, Reason::kMalformed);
    if (values == 0) continue;
    OutboardFile less = file;
    less.subtrees.pop_back();
    const Bytes too_short = Builder(1).File("f", less).bytes();
    ExpectRefused(too_short, Reason::kMalformed);
  }
}

TEST(OutboardTest, RefusesWrongHeaders) {
  const Bytes bytes = Format(SmallOutboard());
  ExpectRefused(With(bytes, 0, {'p'}), Reason::kMalformed);
  ExpectRefused(With(bytes, 8, {0}), Reason::kUnsupported);
  ExpectRefused(With(bytes, 8, {2}), Reason::kUnsupported);
  ExpectRefused(With(bytes, 11, {1}), Reason::kUnsupported);
  ExpectRefused(With(bytes, 12, {19}), Reason::kUnsupported);
  ExpectRefused(With(bytes, 12, {21}), Reason::kUnsupported);
  ExpectRefused(With(bytes, 12, {255, 255, 255, 255}), Reason::kUnsupported);
  ExpectRefused(With(bytes, 24, {1}), Reason::kMalformed);  // one file too few: bytes are left
  ExpectRefused(With(bytes, 24, {3}), Reason::kMalformed);
  ExpectRefused(With(bytes, 27, {1}), Reason::kLimitExceeded);  // 2^24 files
  ExpectRefused(With(bytes, 31, {255}), Reason::kLimitExceeded);
  // Within the limit, but more than the bytes can hold: refused before any memory is taken.
  const Bytes many = Builder(10'000'000).bytes();
  ExpectRefused(many, Reason::kMalformed);
}

TEST(OutboardTest, RefusesLyingLengths) {
  const OutboardFile large = Large(2);
  for (const uint64_t size_bytes :
       {uint64_t{0}, kMiB, 2 * kMiB + 1, uint64_t{1} << 40, (uint64_t{1} << 53) - 1}) {
    SCOPED_TRACE(size_bytes);
    OutboardFile lying = large;
    lying.size_bytes = size_bytes;
    const Bytes bytes = Builder(1).File("f", lying).bytes();
    ExpectRefused(bytes, Reason::kMalformed);
  }
  // Sizes at which rounding up to whole ranges would overflow.
  for (const uint64_t size_bytes : {uint64_t{1} << 53, ~uint64_t{0}, ~uint64_t{0} - kMiB}) {
    SCOPED_TRACE(size_bytes);
    OutboardFile lying = large;
    lying.size_bytes = size_bytes;
    const Bytes bytes = Builder(1).File("f", lying).bytes();
    ExpectRefused(bytes, Reason::kLimitExceeded);
  }
  const Bytes good = Builder(1).File("f", Small(1, 1)).bytes();
  for (const std::vector<uint8_t>& length : std::vector<std::vector<uint8_t>>{
           {0, 0, 0, 0}, {2, 0, 0, 0}, {1, 16, 0, 0}, {255, 255, 255, 255}, {41, 0, 0, 0}}) {
    ExpectRefused(With(good, kHeaderBytes, length), Reason::kMalformed);
  }
}

TEST(OutboardTest, RefusesUnsafeAndDisorderedPaths) {
  const std::string unsafe[] = {"..",  "../a",  "a/..", "/a",   "/",  "a//b",
                                "./a", "a/./b", "a/",   "\xff", "//", std::string("a\0b", 3)};
  for (const std::string& path : unsafe) {
    SCOPED_TRACE(path);
    const Bytes bytes = Builder(1).File(path, Small(1, 1)).bytes();
    ExpectRefused(bytes, Reason::kPathUnsafe);
  }
  const OutboardFile file = Small(1, 1);
  ExpectRefused(Builder(2).File("b", file).File("a", file).bytes(), Reason::kMalformed);
  ExpectRefused(Builder(2).File("a", file).File("a", file).bytes(), Reason::kMalformed);
  // Bytes, unsigned: 0x7a comes before 0xc3.
  EXPECT_TRUE(Parse(Builder(2).File("z", file).File("\xc3\xa9", file).bytes()).ok());
  ExpectRefused(Builder(2).File("\xc3\xa9", file).File("z", file).bytes(), Reason::kMalformed);
  ExpectRefused(Builder(2).File(".", file).File("a", file).bytes(), Reason::kPathUnsafe);
  ExpectRefused(Builder(3).File("a", file).File("a-b", file).File("a/b", file).bytes(),
                Reason::kPathUnsafe);
  EXPECT_TRUE(Parse(Builder(2).File("a", file).File("ab/c", file).bytes()).ok());
}

TEST(OutboardTest, RefusesTruncationAndTrailingBytes) {
  const Bytes bytes = Format(SmallOutboard());
  for (size_t length = 0; length < bytes.size(); ++length) {
    const auto parsed = Parse(ByteSpan(bytes).first(length));
    ASSERT_FALSE(parsed.ok()) << length;
    EXPECT_THAT(ReasonOf(parsed.status()), Optional(Reason::kMalformed));
  }
  Bytes longer = bytes;
  longer.push_back(0);
  ExpectRefused(longer, Reason::kMalformed);
  Bytes twice = bytes;
  twice.insert(twice.end(), bytes.begin(), bytes.end());
  ExpectRefused(twice, Reason::kMalformed);
}

// What the caller compares with the signature (path, size, root) differs, or the file is refused;
// only the time, which binds nothing, may change unseen.
TEST(OutboardTest, EveryFlippedBitShows) {
  const Outboard outboard = SmallOutboard();
  const Bytes bytes = Format(outboard);
  size_t refused = 0;
  size_t differing = 0;
  size_t time_only = 0;
  for (size_t i = 0; i < bytes.size() * 8; ++i) {
    Bytes flipped = bytes;
    flipped[i / 8] ^= static_cast<uint8_t>(1 << i % 8);
    const auto parsed = Parse(flipped);
    if (!parsed.ok()) {
      EXPECT_TRUE(ReasonOf(parsed.status()).has_value()) << parsed.status();
      ++refused;
      continue;
    }
    bool same = parsed->files.size() == outboard.files.size();
    for (const auto& [path, file] : outboard.files) {
      const auto found = parsed->files.find(path);
      same = same && found != parsed->files.end() && found->second.root == file.root &&
             found->second.size_bytes == file.size_bytes;
    }
    if (same) {
      EXPECT_GE(i / 8, 16u);
      EXPECT_LT(i / 8, 24u);
      ++time_only;
    } else {
      ++differing;
    }
  }
  EXPECT_EQ(time_only, 64u);
  EXPECT_EQ(refused + differing + time_only, bytes.size() * 8);
  EXPECT_GT(refused, 0u);
  EXPECT_GT(differing, 0u);
}

TEST(OutboardTest, RefusesValuesThatDoNotMakeTheRoot) {
  OutboardFile swapped = Large(4);
  std::swap(swapped.subtrees[1], swapped.subtrees[2]);
  ExpectRefused(Builder(1).File("f", swapped).bytes(), Reason::kContentMismatch);
  OutboardFile of_another = Large(4);
  of_another.root = Large(3).root;
  ExpectRefused(Builder(1).File("f", of_another).bytes(), Reason::kContentMismatch);
}

// Why the caller must compare sizes: two parents in place of four values make the same root. The
// form is right, the size is not the signed one.
TEST(OutboardTest, ParentsUnderASmallerSizeKeepTheRoot) {
  const OutboardFile file = Large(4);
  OutboardFile folded;
  folded.size_bytes = 2 * kMiB;
  folded.subtrees = {hash::Blake3Parent(file.subtrees[0], file.subtrees[1]),
                     hash::Blake3Parent(file.subtrees[2], file.subtrees[3])};
  folded.root = file.root;
  const auto parsed = Parse(Builder(1).File("f", folded).bytes());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->files.at("f").root, file.root);
  EXPECT_NE(parsed->files.at("f").size_bytes, file.size_bytes);
}

TEST(OutboardTest, WritesNothingItWouldNotRead) {
  const std::vector<std::pair<const char*, Outboard>> cases = [] {
    std::vector<std::pair<const char*, Outboard>> all;
    Outboard outboard = SmallOutboard();
    outboard.files["../x"] = Small(1, 1);
    all.emplace_back("unsafe path", outboard);
    outboard = SmallOutboard();
    outboard.files["."] = Small(1, 1);
    all.emplace_back("\".\" beside files", outboard);
    outboard = SmallOutboard();
    outboard.files["a/b"] = Small(1, 1);
    all.emplace_back("file and directory", outboard);
    outboard = SmallOutboard();
    outboard.files["b/c"].subtrees.pop_back();
    all.emplace_back("value missing", outboard);
    outboard = SmallOutboard();
    outboard.files["b/c"].root = Value(1);
    all.emplace_back("wrong root", outboard);
    outboard = SmallOutboard();
    outboard.files["a"].size_bytes = ~uint64_t{0};
    all.emplace_back("size", outboard);
    return all;
  }();
  for (const auto& [what, outboard] : cases) {
    SCOPED_TRACE(what);
    const auto bytes = FormatOutboard(outboard);
    EXPECT_FALSE(bytes.ok());
    EXPECT_TRUE(ReasonOf(bytes.status()).has_value()) << bytes.status();
  }
}

TEST(OutboardTest, FilesOnDisk) {
  const std::filesystem::path directory =
      std::filesystem::path(testing::TempDir()) / ("outboard_test." + std::to_string(getpid()));
  std::filesystem::create_directories(directory);
  const std::string path = directory / "model.sig.tree";
  Outboard outboard = SmallOutboard();
  // More than one piece of the writer: 40,000 values are 1.2 MiB.
  OutboardFile big;
  big.size_bytes = 40'000 * kMiB;
  for (size_t i = 0; i < 40'000; ++i) big.subtrees.push_back(Value(static_cast<uint8_t>(i % 251)));
  big.root = hash::Blake3RootFromSubtrees(big.subtrees);
  outboard.files["big"] = big;
  {
    auto writer = AtomicFileWriter::Create(path);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(WriteOutboard(outboard, *writer).ok());
    EXPECT_FALSE(std::filesystem::exists(path));
    ASSERT_TRUE(writer->Commit().ok());
  }
  EXPECT_EQ(std::filesystem::file_size(path), Format(outboard).size());
  const auto read = ReadOutboard(path);
  ASSERT_TRUE(read.ok()) << read.status();
  ExpectSame(outboard, *read);

  EXPECT_THAT(ReasonOf(ReadOutboard(directory / "absent").status()),
              Optional(Reason::kFileUnreadable));
  // A sparse file above the limit is refused by its length, unread.
  std::filesystem::resize_file(path, kMaxOutboardBytes + 1);
  EXPECT_THAT(ReasonOf(ReadOutboard(path).status()), Optional(Reason::kLimitExceeded));
  std::filesystem::remove_all(directory);
}

// With the tree of real bytes: what the signer's pass hands over is what the reader checks.
TEST(OutboardTest, ValuesOfARealFile) {
  for (const size_t size_bytes : {kMiB + 1, 2 * kMiB, 5 * kMiB + 12345}) {
    SCOPED_TRACE(size_bytes);
    Bytes content(size_bytes);
    for (size_t i = 0; i < size_bytes; ++i) content[i] = static_cast<uint8_t>(i % 251);
    OutboardFile file;
    file.size_bytes = size_bytes;
    file.root = hash::Blake3(content);
    for (size_t begin = 0; begin < size_bytes; begin += kMiB) {
      const size_t length = std::min<size_t>(kMiB, size_bytes - begin);
      file.subtrees.push_back(hash::Blake3Subtree(ByteSpan(content).subspan(begin, length),
                                                  begin / hash::kBlake3ChunkBytes));
    }
    Outboard outboard;
    outboard.files["f"] = file;
    const Bytes bytes = Format(outboard);
    ASSERT_TRUE(Parse(bytes).ok());
    // One byte of the content changed: its value no longer fits.
    content[size_bytes / 2] ^= 1;
    const size_t range = size_bytes / 2 / kMiB;
    const size_t length = std::min<size_t>(kMiB, size_bytes - range * kMiB);
    file.subtrees[range] = hash::Blake3Subtree(ByteSpan(content).subspan(range * kMiB, length),
                                               range * kMiB / hash::kBlake3ChunkBytes);
    const Bytes changed = Builder(1).File("f", file).bytes();
    ExpectRefused(changed, Reason::kContentMismatch);
  }
}

}  // namespace
}  // namespace pavise::signing
