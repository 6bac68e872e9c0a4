#include <cstdint>
#include <limits>
#include <string>
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

// A file with this header text (its length in front) and so many bytes of data.
Bytes FileOf(const std::string& json, uint64_t data_bytes) {
  Bytes file;
  AppendLittleEndian64(json.size(), file);
  file.insert(file.end(), json.begin(), json.end());
  file.resize(file.size() + data_bytes, 0x5a);
  return file;
}

std::string TensorJson(const std::string& name, const std::string& dtype, const std::string& shape,
                       uint64_t begin, uint64_t end) {
  return StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":[", shape,
                "],\"data_offsets\":[", begin, ",", end, "]}");
}

// The text of an object with these members.
std::string Wrapped(const std::string& members) { return StrCat("{", members, "}"); }

// As a reader of a whole file does it.
absl::StatusOr<TensorTable> Parse(const Bytes& file, const TensorTableLimits& limits = {}) {
  const ByteSpan bytes = file;
  PAVISE_ASSIGN_OR_RETURN(const uint64_t header_bytes,
                          SafetensorsHeaderBytes(bytes.first(std::min<size_t>(8, file.size())),
                                                 file.size(), "m", limits));
  return ParseSafetensorsHeader(bytes.first(header_bytes), file.size(), "m", limits);
}

void ExpectRefused(const std::string& json, uint64_t data_bytes, Reason reason,
                   const std::string& item, const std::string& detail) {
  const absl::Status status = Parse(FileOf(json, data_bytes)).status();
  ASSERT_EQ(ReasonOf(status), reason) << json << "\n" << status;
  EXPECT_EQ(RefusalsOf(status)[0].item, item) << json;
  EXPECT_THAT(RefusalsOf(status)[0].detail, HasSubstr(detail)) << json;
}

void ExpectMalformedTensor(const std::string& tensor, uint64_t data_bytes,
                           const std::string& detail) {
  ExpectRefused(Wrapped(tensor), data_bytes, Reason::kMalformed, "m: tensor t", detail);
}

// What holds for every accepted file of `file_bytes`.
void ExpectExactCoverage(const TensorTable& table, uint64_t file_bytes) {
  uint64_t covered = table.data_begin_bytes;
  for (const TensorEntry& tensor : table.tensors) covered += tensor.end_bytes - tensor.begin_bytes;
  EXPECT_EQ(covered, file_bytes);
}

TEST(SafetensorsTest, ReadsATable) {
  const std::string json =
      Wrapped(StrCat("\"__metadata__\":{\"format\":\"pt\"},", TensorJson("b", "F32", "2,3", 8, 32),
                     ",", TensorJson("a", "BF16", "4", 0, 8)));
  const absl::StatusOr<TensorTable> table = Parse(FileOf(json, 32));
  ASSERT_TRUE(table.ok()) << table.status();
  const uint64_t begin = 8 + json.size();
  EXPECT_EQ(table->format, TensorFormat::kSafetensors);
  EXPECT_EQ(table->data_begin_bytes, begin);
  EXPECT_THAT(table->tensors, ElementsAre(TensorEntry{"a", "BF16", {4}, begin, begin + 8},
                                          TensorEntry{"b", "F32", {2, 3}, begin + 8, begin + 32}));
}

TEST(SafetensorsTest, AcceptsTheLegalCorners) {
  EXPECT_THAT(Parse(FileOf("{}", 0))->tensors, IsEmpty());
  EXPECT_THAT(Parse(FileOf("{\"__metadata__\":{}}", 0))->tensors, IsEmpty());
  EXPECT_THAT(Parse(FileOf("{}      ", 0))->tensors, IsEmpty());
  EXPECT_THAT(Parse(FileOf("{ \"__metadata__\" : { } }", 0))->tensors, IsEmpty());
  // A scalar, a name that is empty, a name with escapes.
  EXPECT_EQ(Parse(FileOf(Wrapped(TensorJson("", "U8", "", 0, 1)), 1))->tensors[0].name, "");
  EXPECT_EQ(Parse(FileOf(Wrapped(TensorJson("\\u00e9\\n", "U8", "1", 0, 1)), 1))->tensors[0].name,
            "\xc3\xa9\n");
}

TEST(SafetensorsTest, EmptyTensorsMayStandAnywhereBetweenOthers) {
  const std::string json =
      Wrapped(TensorJson("z", "F32", "0,7", 0, 0) + "," + TensorJson("m", "U8", "4", 0, 4) + "," +
              TensorJson("y", "F32", "0", 4, 4) + "," + TensorJson("a", "U8", "4", 4, 8) + "," +
              TensorJson("b", "I64", "5,0", 8, 8));
  const absl::StatusOr<TensorTable> table = Parse(FileOf(json, 8));
  ASSERT_TRUE(table.ok()) << table.status();
  std::vector<std::string> names;
  for (const TensorEntry& tensor : table->tensors) names.push_back(tensor.name);
  EXPECT_THAT(names, ElementsAre("m", "z", "a", "y", "b"));  // by begin, then name
  EXPECT_EQ(table->tensors[1].begin_bytes, table->tensors[1].end_bytes);
  // Inside another tensor is no place, not even for nothing.
  ExpectMalformedTensor(TensorJson("a", "U8", "4", 0, 4) + "," + TensorJson("t", "F32", "0", 2, 2),
                        4, "inside another tensor");
}

TEST(SafetensorsTest, KnowsEveryDtypeAndItsSize) {
  struct Case {
    const char* dtype;
    const char* shape;
    uint64_t size_bytes;
  };
  const std::vector<Case> cases = {
      {"BOOL", "3", 3},        {"U8", "3", 3},          {"I8", "3", 3},   {"F8_E5M2", "3", 3},
      {"F8_E4M3", "3", 3},     {"F8_E8M0", "3", 3},     {"F4", "6", 3},   {"F6_E2M3", "4", 3},
      {"F6_E3M2", "2,2", 3},   {"I16", "3", 6},         {"U16", "3", 6},  {"F16", "3", 6},
      {"BF16", "3", 6},        {"I32", "3", 12},        {"U32", "3", 12}, {"F32", "3", 12},
      {"F64", "3", 24},        {"I64", "3", 24},        {"U64", "3", 24}, {"C64", "3", 24},
      {"F8_E5M2FNUZ", "3", 3}, {"F8_E4M3FNUZ", "3", 3},
  };
  EXPECT_THAT(cases, SizeIs(22));
  for (const Case& some : cases) {
    const uint64_t size = some.size_bytes;
    const auto status = [&](uint64_t claimed) {
      return Parse(FileOf(Wrapped(TensorJson("t", some.dtype, some.shape, 0, claimed)), claimed))
          .status();
    };
    EXPECT_TRUE(status(size).ok()) << some.dtype << status(size);
    EXPECT_EQ(ReasonOf(status(size - 1)), Reason::kMalformed) << some.dtype;
    EXPECT_EQ(ReasonOf(status(size + 1)), Reason::kMalformed) << some.dtype;
  }
}

TEST(SafetensorsTest, UnknownDtypesAreUnsupported) {
  for (const char* dtype : {"F128", "f32", "F32 ", "", "F32\\u0000"}) {
    ExpectRefused(Wrapped(TensorJson("t", dtype, "1", 0, 4)), 4, Reason::kUnsupported,
                  "m: tensor t", "unknown dtype");
  }
}

TEST(SafetensorsTest, EveryTruncationIsRefused) {
  const Bytes file =
      FileOf(Wrapped(StrCat("\"__metadata__\":{\"k\":\"v\"},", TensorJson("a", "F32", "2", 0, 8),
                            ",", TensorJson("b", "U8", "3", 8, 11))),
             11);
  ASSERT_TRUE(Parse(file).ok());
  size_t refused = 0;
  for (size_t size = 0; size < file.size(); ++size) {
    const absl::Status status =
        Parse(Bytes(file.begin(), file.begin() + static_cast<long>(size))).status();
    EXPECT_EQ(ReasonOf(status), Reason::kMalformed) << size << status;
    ++refused;
  }
  EXPECT_EQ(refused, file.size());
}

TEST(SafetensorsTest, FlippedHeaderBitsAreRefusedOrStillCoverTheFile) {
  const Bytes file = FileOf(
      Wrapped(TensorJson("a", "F32", "2", 0, 8) + "," + TensorJson("b", "U8", "3", 8, 11)), 11);
  for (size_t bit = 0; bit < (file.size() - 11) * 8; ++bit) {
    Bytes flipped = file;
    flipped[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    const absl::StatusOr<TensorTable> table = Parse(flipped);
    if (table.ok()) {
      ExpectExactCoverage(*table, file.size());
    } else {
      EXPECT_EQ(ExitCodeOf(table.status()), 1) << bit << table.status();
    }
  }
}

TEST(SafetensorsTest, TrailingBytesAreRefused) {
  ExpectRefused("{}", 1, Reason::kMalformed, "m", "end at byte 0 of the data, which has 1");
  ExpectRefused(Wrapped(TensorJson("t", "U8", "4", 0, 4)), 5, Reason::kMalformed, "m",
                "end at byte 4 of the data, which has 5");
}

TEST(SafetensorsTest, LengthsThatLieAreRefused) {
  const auto reason = [](uint64_t length, uint64_t file_size) {
    Bytes start;
    AppendLittleEndian64(length, start);
    return ReasonOf(SafetensorsHeaderBytes(start, file_size, "m").status());
  };
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  EXPECT_EQ(reason(92, 100), std::nullopt);
  EXPECT_EQ(reason(93, 100), Reason::kMalformed);
  for (const uint64_t huge : {kMax, kMax - 1, kMax - 7, kMax - 8, uint64_t{1} << 63}) {
    EXPECT_EQ(reason(huge, 100), Reason::kMalformed) << huge;
    EXPECT_EQ(reason(huge, 8), Reason::kMalformed) << huge;
  }
  // The limit itself, in a file that could hold more.
  EXPECT_EQ(reason(100'000'000, 1'000'000'000), std::nullopt);
  EXPECT_EQ(reason(100'000'001, 1'000'000'000), Reason::kLimitExceeded);
  EXPECT_EQ(reason(kMax - 8, kMax), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(SafetensorsHeaderBytes(Bytes(7), 100, "m").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(SafetensorsHeaderBytes(Bytes(8), 7, "m").status()), Reason::kMalformed);

  // The header handed over must be the one that the length names.
  Bytes file = FileOf("{}", 0);
  file.push_back(' ');
  EXPECT_EQ(ReasonOf(ParseSafetensorsHeader(file, file.size(), "m").status()), Reason::kMalformed);
}

TEST(SafetensorsTest, HeadersThatAreNotStrictJsonAreRefused) {
  const std::string tensor = TensorJson("t", "U8", "1", 0, 1);
  const std::string good = Wrapped(tensor);
  const std::vector<std::string> bad = {
      "",
      " ",
      "[]",
      "null",
      "1",
      StrCat(" ", good),
      StrCat("\xef\xbb\xbf", good),
      StrCat(good, "\n"),
      StrCat(good, "\t "),
      StrCat(good, "x"),
      StrCat(good, "{}"),
      StrCat("{", tensor, ",}"),
      StrCat("{", tensor),
      good + std::string(1, '\0'),
      StrCat("{", tensor, "/**/}"),
      StrCat("{", tensor, ",", tensor, "}"),
      "{\"t\xff\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"};
  for (const std::string& json : bad) {
    EXPECT_EQ(ReasonOf(Parse(FileOf(json, 1)).status()), Reason::kMalformed) << json;
  }
  ASSERT_TRUE(Parse(FileOf(StrCat(good, "   "), 1)).ok());
}

TEST(SafetensorsTest, DuplicateKeysAreRefused) {
  ExpectRefused(Wrapped(TensorJson("t", "U8", "1", 0, 1) + "," + TensorJson("t", "U8", "1", 1, 2)),
                2, Reason::kMalformed, "m", "duplicate key");
  ExpectRefused(
      Wrapped(TensorJson("t", "U8", "1", 0, 1) + "," + TensorJson("\\u0074", "U8", "1", 1, 2)), 2,
      Reason::kMalformed, "m", "duplicate key");
  ExpectRefused("{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", 0, Reason::kMalformed, "m",
                "duplicate key");
  ExpectRefused("{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
                1, Reason::kMalformed, "m", "duplicate key");
}

TEST(SafetensorsTest, TensorsOfTheWrongFormAreRefused) {
  for (const char* value :
       {"1",
        "null",
        "[]",
        "\"x\"",
        "{}",
        "{\"dtype\":\"U8\",\"shape\":[1]}",
        "{\"dtype\":\"U8\",\"data_offsets\":[0,1]}",
        "{\"shape\":[1],\"data_offsets\":[0,1]}",
        "{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":{},\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":[[1]],\"data_offsets\":[0,1]}",
        "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}",
        "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}",
        "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[]}",
        "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-0,1]}",
        "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1e0]}",
        "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,18446744073709551616]}",
        "{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"strides\":[1]}"}) {
    const absl::Status status = Parse(FileOf(StrCat("{\"t\":", value, "}"), 1)).status();
    EXPECT_EQ(ReasonOf(status), Reason::kMalformed) << value << status;
  }
}

TEST(SafetensorsTest, MetadataMustBeStrings) {
  for (const char* value :
       {"1", "null", "[]", "\"x\"", "{\"a\":1}", "{\"a\":null}", "{\"a\":{}}"}) {
    EXPECT_EQ(ReasonOf(Parse(FileOf(StrCat("{\"__metadata__\":", value, "}"), 0)).status()),
              Reason::kMalformed)
        << value;
  }
}

TEST(SafetensorsTest, RangesThatDoNotCoverTheDataAreRefused) {
  const std::string first = TensorJson("a", "U8", "4", 0, 4) + ",";
  ExpectMalformedTensor(first + TensorJson("t", "U8", "4", 3, 7), 7, "inside another tensor");
  ExpectMalformedTensor(first + TensorJson("t", "U8", "4", 0, 4), 4, "inside another tensor");
  ExpectMalformedTensor(first + TensorJson("t", "U8", "2", 1, 3), 4, "inside another tensor");
  ExpectMalformedTensor(first + TensorJson("t", "U8", "4", 5, 9), 9, "after a hole");
  ExpectMalformedTensor(TensorJson("t", "U8", "4", 1, 5), 5, "after a hole");
  ExpectMalformedTensor(TensorJson("t", "U8", "4", 4, 0), 4, "ends before it begins");
  ExpectMalformedTensor(TensorJson("t", "U8", "5", 0, 5), 4, "ends at byte 5");
  ExpectMalformedTensor(TensorJson("t", "U8", "0", 5, 5), 4, "ends at byte 5");
  ExpectMalformedTensor(TensorJson("t", "U8", "4", 0, std::numeric_limits<uint64_t>::max()), 4,
                        "ends at byte 18446744073709551615");
}

TEST(SafetensorsTest, ShapesThatDoNotFitAreRefused) {
  ExpectMalformedTensor(TensorJson("t", "F32", "2", 0, 7), 7, "has 7 bytes");
  ExpectMalformedTensor(TensorJson("t", "F4", "3", 0, 2), 2, "whole bytes");
  ExpectMalformedTensor(TensorJson("t", "F6_E2M3", "3", 0, 2), 2, "whole bytes");
  ExpectMalformedTensor(TensorJson("t", "U8", "4294967296,4294967296", 0, 0), 0, "overflows");
  ExpectMalformedTensor(TensorJson("t", "U8", "18446744073709551615,2", 0, 4), 4, "overflows");
  // 2^61 elements of 8 bits wrap to 0 bits.
  ExpectMalformedTensor(TensorJson("t", "U8", "2305843009213693952", 0, 0), 0, "overflows");
  ExpectMalformedTensor(TensorJson("t", "F64", "288230376151711744", 0, 0), 0, "overflows");
}

TEST(SafetensorsTest, DeepOrLargeHeadersMeetTheirBounds) {
  std::string deep = "{\"t\":";
  for (int i = 0; i < 100'000; ++i) deep += '[';
  for (int i = 0; i < 100'000; ++i) deep += ']';
  ExpectRefused(deep + "}", 0, Reason::kLimitExceeded, "m", "nested deeper");

  const std::string two =
      Wrapped(TensorJson("a", "U8", "1", 0, 1) + "," + TensorJson("b", "U8", "1", 1, 2));
  TensorTableLimits limits;
  limits.max_tensors = 2;
  EXPECT_TRUE(Parse(FileOf(two, 2), limits).ok());
  limits.max_tensors = 1;
  EXPECT_EQ(ReasonOf(Parse(FileOf(two, 2), limits).status()), Reason::kLimitExceeded);
  limits = {};
  limits.max_header_bytes = two.size();
  EXPECT_TRUE(Parse(FileOf(two, 2), limits).ok());
  limits.max_header_bytes = two.size() - 1;
  EXPECT_EQ(ReasonOf(Parse(FileOf(two, 2), limits).status()), Reason::kLimitExceeded);
}

}  // namespace
}  // namespace pavise::model
