#include "pavise/base/byte_reader.h"

#include "pavise/base/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise {
namespace {

using ::testing::HasSubstr;

TEST(ByteReaderTest, ReadsIntegersInBothOrders) {
  const Bytes bytes = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                       1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
  ByteReader reader(bytes, "record");
  EXPECT_EQ(reader.Uint8("a").value(), 1);
  EXPECT_EQ(reader.LittleEndian16("b").value(), 0x0302);
  EXPECT_EQ(reader.LittleEndian32("c").value(), 0x07060504u);
  EXPECT_EQ(reader.LittleEndian64("d").value(), 0x0f0e0d0c0b0a0908u);
  EXPECT_EQ(reader.BigEndian16("e").value(), 0x0102);
  EXPECT_EQ(reader.BigEndian32("f").value(), 0x03040506u);
  EXPECT_EQ(reader.BigEndian64("g").value(), 0x0708090a0b0c0d0eu);
  EXPECT_TRUE(reader.RequireEnd().ok());
}

TEST(ByteReaderTest, RefusesWhatDoesNotFitAndSaysWhere) {
  const Bytes bytes(10, 0);
  ByteReader reader(bytes, "record", 100);
  ASSERT_TRUE(reader.Take(7, "head").ok());
  const absl::Status status = reader.LittleEndian32("length").status();
  EXPECT_EQ(ReasonOf(status), Reason::kMalformed);
  EXPECT_THAT(std::string(status.message()), HasSubstr("record"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("at offset 107: length takes 4 bytes"));
  EXPECT_FALSE(reader.Take(UINT64_MAX, "all").ok());
  // A refused read takes nothing.
  EXPECT_EQ(reader.left(), 3u);
  EXPECT_EQ(ReasonOf(reader.RequireEnd()), Reason::kMalformed);
}

TEST(ByteReaderTest, ASubReaderEndsWhereItsStructureEnds) {
  const Bytes bytes = {1, 2, 3, 4, 5};
  ByteReader reader(bytes, "record");
  ASSERT_TRUE(reader.Uint8("kind").ok());
  absl::StatusOr<ByteReader> sub = reader.Sub(2, "body");
  ASSERT_TRUE(sub.ok());
  EXPECT_EQ(sub->offset(), 1u);
  EXPECT_EQ(sub->BigEndian16("value").value(), 0x0203);
  EXPECT_FALSE(sub->Uint8("more").ok());
  EXPECT_EQ(reader.Uint8("next").value(), 4);
  EXPECT_FALSE(reader.Sub(2, "body").ok());
}

}  // namespace
}  // namespace pavise
