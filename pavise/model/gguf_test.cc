#include <bit>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/model/tensor_table.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint64_t kHuge[] = {std::numeric_limits<uint64_t>::max(),
                              std::numeric_limits<uint64_t>::max() - 7, uint64_t{1} << 63,
                              uint64_t{1} << 61, uint64_t{1} << 32};

// GGUF's pieces, appended one after another.
struct Writer {
  Bytes bytes;

  Writer& Raw(std::string_view text) {
    for (const char c : text) bytes.push_back(static_cast<uint8_t>(c));
    return *this;
  }
  Writer& U32(uint32_t value) {
    AppendLittleEndian32(value, bytes);
    return *this;
  }
  Writer& U64(uint64_t value) {
    AppendLittleEndian64(value, bytes);
    return *this;
  }
  Writer& String(std::string_view text) { return U64(text.size()).Raw(text); }
  Writer& Start(uint64_t tensors, uint64_t pairs, uint32_t version = 3) {
    return Raw("GGUF").U32(version).U64(tensors).U64(pairs);
  }
  Writer& Alignment(uint32_t value) { return String("general.alignment").U32(4).U32(value); }
  Writer& Tensor(std::string_view name, const std::vector<uint64_t>& shape, uint32_t type,
                 uint64_t offset) {
    String(name).U32(static_cast<uint32_t>(shape.size()));
    for (const uint64_t dimension : shape) U64(dimension);
    return U32(type).U64(offset);
  }
  // Pads to the alignment, then so many bytes of data.
  Writer& Data(uint64_t size_bytes, uint64_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment + size_bytes, 0x5a);
    return *this;
  }
};

absl::StatusOr<std::optional<TensorTable>> Parse(const Writer& writer,
                                                 const TensorTableLimits& limits = {}) {
  return ParseGgufHeader(writer.bytes, writer.bytes.size(), "m", limits);
}

void ExpectRefused(const Writer& writer, Reason reason, const std::string& item,
                   const std::string& detail) {
  const absl::Status status = Parse(writer).status();
  ASSERT_EQ(ReasonOf(status), reason) << detail << " expected: " << status;
  EXPECT_EQ(RefusalsOf(status)[0].item, item);
  EXPECT_THAT(RefusalsOf(status)[0].detail, HasSubstr(detail));
}

TensorTable Accepted(const Writer& writer) {
  const absl::StatusOr<std::optional<TensorTable>> table = Parse(writer);
  EXPECT_TRUE(table.ok()) << table.status();
  if (!table.ok() || !table->has_value()) {
    ADD_FAILURE() << "no table";
    return {};
  }
  return **table;
}

// One of everything that a header may hold.
Writer Everything() {
  Writer writer;
  writer.Start(2, 16);
  for (const uint32_t one_byte : {0u, 1u, 7u}) {
    writer.String(StrCat("k", one_byte)).U32(one_byte).Raw("\x01");
  }
  for (const uint32_t two_bytes : {2u, 3u}) {
    writer.String(StrCat("k", two_bytes)).U32(two_bytes).Raw("ab");
  }
  for (const uint32_t four_bytes : {4u, 5u, 6u}) {
    writer.String(StrCat("k", four_bytes)).U32(four_bytes).Raw("abcd");
  }
  for (const uint32_t eight_bytes : {10u, 11u, 12u}) {
    writer.String(StrCat("k", eight_bytes)).U32(eight_bytes).Raw("abcdefgh");
  }
  writer.String("k8").U32(8).String("value");
  writer.String("strings").U32(9).U32(8).U64(3).String("a").String("").String("ccc");
  writer.String("numbers").U32(9).U32(5).U64(2).U32(1).U32(2);
  writer.String("nested").U32(9).U32(9).U64(2);
  writer.U32(7).U64(2).Raw(std::string_view("\x00\x01", 2)).U32(8).U64(1).String("x");
  writer.Alignment(64);
  writer.Tensor("b", {32, 2}, 8, 64);  // Q8_0: 68 bytes
  writer.Tensor("a", {3}, 0, 0);       // F32: 12 bytes
  return writer.Data(64 + 68, 64);
}

TEST(GgufTest, ReadsATable) {
  const Writer file = Everything();
  const TensorTable table = Accepted(file);
  const uint64_t begin = file.bytes.size() - 132;
  EXPECT_EQ(begin % 64, 0u);
  EXPECT_EQ(table.format, TensorFormat::kGguf);
  EXPECT_EQ(table.data_begin_bytes, begin);
  EXPECT_THAT(table.tensors,
              ElementsAre(TensorEntry{"a", "F32", {3}, begin, begin + 12},
                          TensorEntry{"b", "Q8_0", {32, 2}, begin + 64, begin + 132}));
}

TEST(GgufTest, ReadsVersion2AndFilesWithoutTensors) {
  Writer second;
  second.Start(1, 0, 2).Tensor("t", {8}, 0, 0).Data(32);
  EXPECT_THAT(Accepted(second).tensors, SizeIs(1));
  Writer bare;
  bare.Start(0, 0);
  EXPECT_THAT(Accepted(bare).tensors, IsEmpty());
  EXPECT_EQ(Accepted(bare).data_begin_bytes, bare.bytes.size());  // not padded
  bare.Data(0);
  EXPECT_EQ(Accepted(bare).data_begin_bytes, 32u);
}

TEST(GgufTest, AcceptsTheLegalCorners) {
  Writer file;
  file.Start(4, 0);
  file.Tensor("", {}, 0, 64);          // a scalar with an empty name
  file.Tensor("empty", {0, 4}, 1, 0);  // nothing, where another begins
  file.Tensor("\xc3\xa9\n", {1, 2, 3, 1}, 24, 0);
  file.Tensor("bytes", {4}, 24, 32);
  file.Data(68 + 10);  // and something after the last
  const TensorTable table = Accepted(file);
  const uint64_t begin = table.data_begin_bytes;
  EXPECT_THAT(table.tensors,
              ElementsAre(TensorEntry{"empty", "F16", {0, 4}, begin, begin},
                          TensorEntry{"\xc3\xa9\n", "I8", {1, 2, 3, 1}, begin, begin + 6},
                          TensorEntry{"bytes", "I8", {4}, begin + 32, begin + 36},
                          TensorEntry{"", "F32", {}, begin + 64, begin + 68}));
}

// Elements and bytes of a block, from ggml's tables.
TEST(GgufTest, KnowsEveryTypeAndItsBlocks) {
  struct Case {
    uint32_t number;
    const char* name;
    uint64_t elements;
    uint64_t size_bytes;
  };
  const std::vector<Case> cases = {
      {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},
      {3, "Q4_1", 32, 20},      {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},
      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},      {10, "Q2_K", 256, 84},
      {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
      {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66},
      {17, "IQ2_XS", 256, 74},  {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},
      {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},  {22, "IQ2_S", 256, 82},
      {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
      {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},
      {29, "IQ1_M", 256, 56},   {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},
      {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},    {40, "NVFP4", 64, 36}};
  EXPECT_THAT(cases, SizeIs(33));
  std::vector<bool> known(300, false);
  for (const Case& some : cases) {
    known[some.number] = true;
    const auto file = [&](uint64_t first_dimension, uint64_t data_bytes) {
      Writer writer;
      writer.Start(1, 0).Tensor("t", {first_dimension, 3}, some.number, 0).Data(data_bytes);
      return writer;
    };
    const uint64_t size_bytes = 6 * some.size_bytes;
    const TensorTable table = Accepted(file(2 * some.elements, size_bytes));
    ASSERT_THAT(table.tensors, SizeIs(1)) << some.name;
    EXPECT_EQ(table.tensors[0].dtype, some.name);
    EXPECT_EQ(table.tensors[0].end_bytes - table.tensors[0].begin_bytes, size_bytes) << some.name;
    ExpectRefused(file(2 * some.elements, size_bytes - 1), Reason::kMalformed, "m: tensor t", "");
    if (some.elements > 1) {
      ExpectRefused(file(2 * some.elements - 1, size_bytes), Reason::kMalformed, "m: tensor t",
                    "no whole number of");
      ExpectRefused(file(some.elements / 2, size_bytes), Reason::kMalformed, "m: tensor t",
                    "no whole number of");
    }
  }
  for (uint32_t number = 0; number < known.size(); ++number) {
    if (known[number]) continue;
    Writer writer;
    writer.Start(1, 0).Tensor("t", {256}, number, 0).Data(4096);
    ExpectRefused(writer, Reason::kUnsupported, "m: tensor t", "unknown ggml type");
  }
}

TEST(GgufTest, APrefixAsksForMoreUntilTheHeaderIsWhole) {
  const Writer file = Everything();
  const TensorTable whole = Accepted(file);
  const uint64_t header_end = whole.data_begin_bytes;
  size_t asked = 0;
  for (size_t size = 0; size < file.bytes.size(); ++size) {
    const absl::StatusOr<std::optional<TensorTable>> table =
        ParseGgufHeader(ByteSpan(file.bytes).first(size), file.bytes.size(), "m");
    ASSERT_TRUE(table.ok()) << size << table.status();
    if (table->has_value()) {
      EXPECT_EQ(**table, whole) << size;
    } else {
      ++asked;
      EXPECT_LT(size, header_end);
    }
  }
  EXPECT_GT(asked, header_end - 64);  // all but the padding
  TensorTableLimits limits;
  limits.max_header_bytes = 100;
  EXPECT_EQ(
      ReasonOf(ParseGgufHeader(ByteSpan(file.bytes).first(100), file.bytes.size(), "m", limits)
                   .status()),
      Reason::kLimitExceeded);
  EXPECT_FALSE(
      ParseGgufHeader(ByteSpan(file.bytes).first(99), file.bytes.size(), "m", limits)->has_value());
}

TEST(GgufTest, EveryTruncationIsRefused) {
  const Writer file = Everything();
  size_t refused = 0;
  for (size_t size = 0; size < file.bytes.size(); ++size) {
    Writer cut;
    cut.bytes.assign(file.bytes.begin(), file.bytes.begin() + static_cast<long>(size));
    const absl::Status status = Parse(cut).status();
    EXPECT_EQ(ReasonOf(status), Reason::kMalformed) << size << status;
    ++refused;
  }
  EXPECT_EQ(refused, file.bytes.size());
}

TEST(GgufTest, FlippedHeaderBitsAreRefusedOrStillInsideTheFile) {
  const Writer file = Everything();
  for (size_t bit = 0; bit < (file.bytes.size() - 132) * 8; ++bit) {
    Writer flipped = file;
    flipped.bytes[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    const absl::StatusOr<std::optional<TensorTable>> table = Parse(flipped);
    if (!table.ok()) {
      EXPECT_EQ(ExitCodeOf(table.status()), 1) << bit << table.status();
      continue;
    }
    ASSERT_TRUE(table->has_value()) << bit;
    uint64_t position = (*table)->data_begin_bytes;
    for (const TensorEntry& tensor : (*table)->tensors) {
      EXPECT_LE(tensor.begin_bytes, tensor.end_bytes) << bit;
      EXPECT_LE(position, tensor.begin_bytes) << bit;
      position = tensor.end_bytes;
    }
    EXPECT_LE(position, file.bytes.size()) << bit;
  }
}

TEST(GgufTest, OtherVersionsAreUnsupported) {
  for (const uint32_t version : {0u, 1u, 4u, 0xffffffffu}) {
    Writer file;
    ExpectRefused(file.Start(0, 0, version), Reason::kUnsupported, "m", "GGUF");
  }
  Writer big_endian;
  ExpectRefused(big_endian.Start(0, 0, 0x03000000), Reason::kUnsupported, "m", "big-endian");
  Writer other;
  ExpectRefused(other.Raw("GGML").U32(3).U64(0).U64(0), Reason::kMalformed, "m", "GGUF");
}

TEST(GgufTest, CountsAndLengthsThatLieAreRefused) {
  for (const uint64_t huge : kHuge) {
    Writer tensors;
    ExpectRefused(tensors.Start(huge, 0).Data(4096), Reason::kMalformed, "m", "can hold");
    Writer pairs;
    ExpectRefused(pairs.Start(0, huge).Data(4096), Reason::kMalformed, "m", "can hold");
    Writer key;
    ExpectRefused(key.Start(0, 1).U64(huge).Data(4096), Reason::kMalformed, "m", "claims");
    Writer value;
    ExpectRefused(value.Start(0, 1).String("k").U32(8).U64(huge).Data(4096), Reason::kMalformed,
                  "m", "claims");
    for (const uint32_t type : {0u, 1u, 2u, 4u, 7u, 8u, 10u, 12u}) {
      Writer array;
      // Strings of no length: only the count lies.
      array.Start(0, 1).String("k").U32(9).U32(type).U64(huge);
      array.bytes.resize(array.bytes.size() + 4096);
      ExpectRefused(array, Reason::kMalformed, "m", "claims");
    }
    Writer arrays;
    arrays.Start(0, 1).String("k").U32(9).U32(9).U64(huge);
    arrays.bytes.resize(arrays.bytes.size() + 4096);  // empty arrays of uint8
    ExpectRefused(arrays, Reason::kMalformed, "m", "claims");
    Writer name;
    ExpectRefused(name.Start(1, 0).U64(huge).Data(4096), Reason::kMalformed, "m", "claims");
  }
}

TEST(GgufTest, MetadataOutOfBoundsIsRefused) {
  Writer unknown;
  ExpectRefused(unknown.Start(0, 1).String("k").U32(13).Data(64), Reason::kUnsupported, "m",
                "unknown type 13");
  Writer unknown_array;
  ExpectRefused(unknown_array.Start(0, 1).String("k").U32(9).U32(99).U64(0).Data(64),
                Reason::kUnsupported, "m", "unknown type 99");
  Writer truth;
  ExpectRefused(truth.Start(0, 1).String("k").U32(7).Raw("\x02").Data(64), Reason::kMalformed, "m",
                "truth value");
  Writer truths;
  ExpectRefused(truths.Start(0, 1).String("k").U32(9).U32(7).U64(2).Raw("\x01\xff").Data(64),
                Reason::kMalformed, "m", "truth value");
  Writer twice;
  ExpectRefused(twice.Start(0, 2).String("k").U32(0).Raw("a").String("k").U32(0).Raw("a").Data(64),
                Reason::kMalformed, "m", "\"k\" appears twice");
  Writer long_key;
  ExpectRefused(long_key.Start(0, 1).String(std::string(65536, 'k')).U32(0).Raw("a").Data(64),
                Reason::kMalformed, "m", "65,535");
}

TEST(GgufTest, DeeplyNestedArraysAreRefused) {
  const auto nested = [](int depth) {
    Writer file;
    file.Start(0, 1).String("k").U32(9);
    for (int i = 1; i < depth; ++i) file.U32(9).U64(1);
    return file.U32(0).U64(1).Raw("a").Data(64);
  };
  EXPECT_TRUE(Parse(nested(1)).ok());
  EXPECT_TRUE(Parse(nested(4)).ok());
  ExpectRefused(nested(5), Reason::kLimitExceeded, "m", "nests arrays");
  ExpectRefused(nested(100'000), Reason::kLimitExceeded, "m", "nests arrays");
}

TEST(GgufTest, AlignmentsThatAreNoPowerOfTwoAreRefused) {
  for (const uint32_t alignment : {1u, 8u, 32u, 4096u}) {
    Writer file;
    file.Start(1, 1).Alignment(alignment).Tensor("t", {8}, 0, 0).Data(32, alignment);
    EXPECT_EQ(Accepted(file).data_begin_bytes, file.bytes.size() - 32) << alignment;
  }
  for (const uint32_t alignment : {0u, 3u, 24u, 0xffffffffu}) {
    Writer file;
    ExpectRefused(file.Start(0, 1).Alignment(alignment).Data(64), Reason::kMalformed, "m",
                  "power of two");
  }
  Writer wide;
  ExpectRefused(wide.Start(0, 1).String("general.alignment").U32(10).U64(32).Data(64),
                Reason::kMalformed, "m", "not a uint32");
  Writer far;
  ExpectRefused(far.Start(1, 1).Alignment(1u << 31).Tensor("t", {8}, 0, 0).Data(32),
                Reason::kMalformed, "m", "before its tensor data begins");
}

TEST(GgufTest, TensorsOfTheWrongFormAreRefused) {
  Writer twice;
  ExpectRefused(twice.Start(2, 0).Tensor("t", {8}, 0, 0).Tensor("t", {8}, 0, 32).Data(64),
                Reason::kMalformed, "m: tensor t", "appears twice");
  Writer not_text;
  ExpectRefused(not_text.Start(1, 0).Tensor("t\xff", {8}, 0, 0).Data(64), Reason::kMalformed, "m",
                "\"t\\xff\" is not UTF-8");
  Writer long_name;
  ExpectRefused(long_name.Start(1, 0).Tensor(std::string(65536, 'n'), {8}, 0, 0).Data(64),
                Reason::kMalformed, "m", "65,535");
  Writer five;
  ExpectRefused(five.Start(1, 0).Tensor("t", {1, 1, 1, 1, 1}, 0, 0).Data(64),
                Reason::kLimitExceeded, "m: tensor t", "5 dimensions");
  Writer many;
  ExpectRefused(many.Start(1, 0).String("t").U32(0xffffffff).Data(64), Reason::kLimitExceeded,
                "m: tensor t", "4294967295 dimensions");
}

TEST(GgufTest, ShapesThatOverflowAreRefused) {
  const std::vector<std::vector<uint64_t>> shapes = {
      {uint64_t{1} << 62},                       // x 4 bytes
      {uint64_t{1} << 63, 2},                    // rows
      {uint64_t{1} << 32, uint64_t{1} << 32},    // wraps to 0
      {1u << 16, 1u << 16, 1u << 16, 1u << 16},  // wraps to 0
      {std::numeric_limits<uint64_t>::max(), 1, 1, 1}};
  for (const std::vector<uint64_t>& shape : shapes) {
    Writer file;
    ExpectRefused(file.Start(1, 0).Tensor("t", shape, 0, 0).Data(64), Reason::kMalformed,
                  "m: tensor t", "overflows");
  }
}

TEST(GgufTest, OffsetsOutsideTheDataAreRefused) {
  const auto file = [](uint64_t offset) {
    Writer writer;
    writer.Start(1, 0).Tensor("t", {8}, 0, offset).Data(96);
    return writer;
  };
  EXPECT_THAT(Accepted(file(64)).tensors, SizeIs(1));
  ExpectRefused(file(96), Reason::kMalformed, "m: tensor t", "ends at byte 128 of the data");
  ExpectRefused(file(1), Reason::kMalformed, "m: tensor t", "no multiple of 32");
  ExpectRefused(file(33), Reason::kMalformed, "m: tensor t", "no multiple of 32");
  for (const uint64_t huge : {~uint64_t{0}, ~uint64_t{31}, uint64_t{1} << 63, uint64_t{1} << 40}) {
    ExpectRefused(file(huge), Reason::kMalformed, "m: tensor t", "claims 32 bytes");
  }
}

TEST(GgufTest, OverlapsAreRefusedAndHolesAreNot) {
  const auto file = [](uint64_t second_offset, uint64_t third_offset) {
    Writer writer;
    writer.Start(3, 0).Tensor("a", {16}, 0, 0);
    writer.Tensor("b", {1}, 0, second_offset).Tensor("c", {8}, 0, third_offset);
    return writer.Data(256);
  };
  EXPECT_THAT(Accepted(file(64, 128)).tensors, SizeIs(3));
  EXPECT_THAT(Accepted(file(192, 64)).tensors, SizeIs(3));
  ExpectRefused(file(32, 64), Reason::kMalformed, "m: tensor b", "inside tensor a");
  ExpectRefused(file(0, 64), Reason::kMalformed, "m: tensor a", "inside tensor b");
  ExpectRefused(file(64, 64), Reason::kMalformed, "m: tensor c", "inside tensor b");
}

TEST(GgufTest, TooManyTensorsAreRefused) {
  Writer file;
  file.Start(2, 0).Tensor("a", {1}, 0, 0).Tensor("b", {1}, 0, 32).Data(64);
  TensorTableLimits limits;
  limits.max_tensors = 2;
  EXPECT_TRUE(Parse(file, limits).ok());
  limits.max_tensors = 1;
  EXPECT_EQ(ReasonOf(Parse(file, limits).status()), Reason::kLimitExceeded);
}

TEST(GgufTest, AHeaderLongerThanItsFileIsRefused) {
  const Writer file = Everything();
  EXPECT_EQ(ReasonOf(ParseGgufHeader(file.bytes, file.bytes.size() - 1, "m").status()),
            Reason::kMalformed);
}

}  // namespace
}  // namespace pavise::model
