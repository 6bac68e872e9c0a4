#include "pavise/evidence/appraise/der_reader.h"

#include "pavise/base/status.h"
#include "pavise/evidence/appraise/testing/test_signatures.h"

#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using testing::DerElement;
using testing::DerUint;

TEST(DerReaderTest, ReadsNumbersInTheirShortestForm) {
  for (const uint32_t value : {0u, 1u, 127u, 128u, 255u, 256u, 32767u, 32768u, 65535u}) {
    const Bytes der = DerUint(value);
    DerReader reader(der, "x");
    EXPECT_EQ(reader.NextUint(65535, "n").value_or(99), value);
    EXPECT_TRUE(reader.RequireEnd().ok());
    if (value > 0) {
      EXPECT_FALSE(DerReader(der, "x").NextUint(value - 1, "n").ok());
    }
  }
  const Bytes bad[] = {{},
                       {0x02},
                       {0x02, 0x00},
                       {0x02, 0x01},
                       {0x02, 0x01, 0x80},
                       {0x02, 0x02, 0x00, 0x7f},
                       {0x02, 0x81, 0x01, 0x01},
                       {0x02, 0x82, 0x00, 0x01, 0x01},
                       {0x02, 0x80, 0x00, 0x00},
                       {0x02, 0x83, 0x00, 0x00, 0x01, 0x01},
                       {0x04, 0x01, 0x01},
                       {0x02, 0x06, 1, 2, 3, 4, 5, 6}};
  for (const Bytes& der : bad) {
    const absl::Status refused = DerReader(der, "x").NextUint(65535, "n").status();
    EXPECT_EQ(ReasonOf(refused), Reason::kMalformed) << ToHex(der);
  }
}

TEST(DerReaderTest, LongElementsAndTheirTruncations) {
  for (const size_t size_bytes :
       {size_t{0}, size_t{127}, size_t{128}, size_t{255}, size_t{256}, size_t{65535}}) {
    const Bytes content(size_bytes, 7);
    const Bytes der = DerElement(0x04, content);
    DerReader reader(der, "x");
    const auto read = reader.Next(DerTag::kOctetString, "octets");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(Bytes(read->begin(), read->end()), content);
    EXPECT_FALSE(DerReader(ByteSpan(der).first(der.size() - 1), "x").NextElement("e").ok());
  }
  const Bytes two = {0x02, 0x01, 0x01, 0x00};
  DerReader reader(two, "x");
  EXPECT_TRUE(reader.NextElement("e").ok());
  EXPECT_EQ(ReasonOf(reader.RequireEnd()), Reason::kMalformed);
}

}  // namespace
}  // namespace pavise::evidence
