#!/usr/bin/env python3
"""Tests of check_layers.py and includes.py: trees that must pass, and trees that must not."""

import contextlib
import io
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import check_layers  # noqa: E402
import includes  # noqa: E402

# A small tree without faults.
GOOD = {
    "CMakeLists.txt": """
        add_subdirectory(pavise/base)
        add_subdirectory(pavise/crypto)
        add_subdirectory(pavise/hash)
        add_subdirectory(pavise/signing)
    """,
    "pavise/base/CMakeLists.txt": "pavise_area(base\n SOURCES bytes.cc USES absl::status)",
    "pavise/base/bytes.h": "#include <vector>\n",
    "pavise/base/bytes.cc": '#include "pavise/base/bytes.h"\n',
    "pavise/crypto/CMakeLists.txt": """
        pavise_area(crypto SOURCES keys.cc internal/openssl.cc USES pavise_base)
        pavise_test(crypto keys_test.cc testing/certificates.cc)
    """,
    "pavise/crypto/keys.h": '#include "pavise/base/bytes.h"\n',
    "pavise/crypto/keys.cc": '#include "pavise/crypto/keys.h"\n#include <openssl/evp.h>\n',
    "pavise/crypto/keys_test.cc": '#include "pavise/crypto/testing/certificates.h"\n',
    "pavise/crypto/internal/openssl.h": "#include <openssl/evp.h>\n",
    "pavise/crypto/internal/openssl.cc": '#include "pavise/crypto/internal/openssl.h"\n',
    "pavise/crypto/testing/certificates.h": "",
    "pavise/crypto/testing/certificates.cc": '#include "pavise/crypto/testing/certificates.h"\n',
    "pavise/hash/CMakeLists.txt": """
        pavise_area(hash
          SOURCES tree.cc  # a comment (with parentheses)
          USES pavise_base PRIVATE_USES pavise_crypto)
        pavise_fuzz(hash tree_fuzz.cc)
    """,
    "pavise/hash/tree.h": '#include "pavise/base/bytes.h"\n',
    "pavise/hash/tree.cc": '#include "pavise/hash/tree.h"\n#include "pavise/crypto/keys.h"\n',
    "pavise/hash/tree_fuzz.cc": '#include "pavise/hash/tree.h"\n',
    "pavise/signing/CMakeLists.txt": "pavise_area(signing SOURCES sign.cc USES pavise_hash)",
    "pavise/signing/sign.h": '#include "pavise/hash/tree.h"\n',
    "pavise/signing/sign.cc": '#include "pavise/signing/sign.h"\n',
}


class CheckLayersTest(unittest.TestCase):
    def check(self, changes=None):
        """The findings for GOOD with `changes`: path -> text to append, or None to delete."""
        tree = dict(GOOD)
        for path, text in (changes or {}).items():
            if text is None:
                del tree[path]
            else:
                tree[path] = tree.get(path, "") + text
        with tempfile.TemporaryDirectory() as directory:
            for path, text in tree.items():
                file = pathlib.Path(directory, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            findings, _ = check_layers.check_tree(directory)
            with contextlib.redirect_stdout(io.StringIO()):
                exit_code = check_layers.main(["check_layers.py", directory])
        self.assertEqual(exit_code, 1 if findings else 0)
        return findings

    def assert_refused(self, changes, *parts):
        findings = self.check(changes)
        self.assertEqual(len(findings), 1, findings)
        for part in parts:
            self.assertIn(part, findings[0])

    def test_good_tree_passes(self):
        self.assertEqual(self.check(), [])

    def test_empty_tree_is_not_a_pass(self):
        with tempfile.TemporaryDirectory() as directory:
            with contextlib.redirect_stdout(io.StringIO()):
                self.assertEqual(check_layers.main(["check_layers.py", directory]), 1)

    def test_area_above(self):
        self.assert_refused(
            {"pavise/crypto/keys_test.cc": '#include "pavise/hash/tree.h"\n'},
            "pavise/crypto/keys_test.cc:2",
            "crypto may not include hash",
        )

    def test_area_above_in_a_fuzz_target(self):
        self.assert_refused(
            {"pavise/hash/tree_fuzz.cc": '#include "pavise/signing/sign.h"\n'},
            "hash may not include signing",
        )

    def test_area_beside(self):
        self.assert_refused(
            {
                "CMakeLists.txt": "\nadd_subdirectory(pavise/vault)\n",
                "pavise/vault/CMakeLists.txt": "pavise_area(vault SOURCES seal.cc)\n"
                "pavise_test(vault seal_test.cc)",
                "pavise/vault/seal.cc": "",
                "pavise/vault/seal_test.cc": '#include "pavise/hash/tree.h"\n',
            },
            "vault may not include hash",
        )

    def test_indented_include(self):
        self.assert_refused(
            {"pavise/crypto/keys_test.cc": '  #  include   "pavise/hash/tree.h"\n'},
            "crypto may not include hash",
        )

    def test_continued_include(self):
        self.assert_refused(
            {"pavise/crypto/keys_test.cc": '#include \\\n  "pavise/hash/tree.h"\n'},
            "crypto may not include hash",
        )

    def test_include_in_angle_brackets(self):
        self.assert_refused(
            {"pavise/crypto/keys_test.cc": "#include <pavise/hash/tree.h>\n"},
            "crypto may not include hash",
        )

    def test_commented_out_includes_do_not_count(self):
        self.assertEqual(
            self.check(
                {
                    "pavise/crypto/keys_test.cc": '// #include "pavise/hash/tree.h"\n'
                    '/*\n#include "pavise/hash/tree.h"\n*/\n'
                    'const char* kText = "//";  /* " */\n'
                }
            ),
            [],
        )

    def test_comment_in_a_string_hides_nothing(self):
        self.assert_refused(
            {"pavise/crypto/keys_test.cc": 'auto a = "/*";\n#include "pavise/hash/tree.h"\n//*/\n'},
            "crypto may not include hash",
        )

    def test_include_through_a_macro(self):
        self.assert_refused(
            {"pavise/crypto/keys.cc": '#define X "pavise/hash/tree.h"\n#include X\n'},
            "through a macro",
        )

    def test_relative_include(self):
        self.assert_refused(
            {"pavise/crypto/keys.cc": '#include "keys.h"\n'}, "by the path from the root"
        )

    def test_include_with_dots(self):
        self.assert_refused(
            {"pavise/crypto/keys.cc": '#include "../hash/tree.h"\n'}, "by the path from the root"
        )

    def test_internal_header_of_another_area(self):
        self.assert_refused(
            {"pavise/hash/tree.cc": '#include "pavise/crypto/internal/openssl.h"\n'},
            "internal to crypto",
        )

    def test_testing_header_in_production(self):
        self.assert_refused(
            {"pavise/hash/tree.cc": '#include "pavise/crypto/testing/certificates.h"\n'},
            "for tests only",
        )

    def test_missing_header(self):
        self.assert_refused(
            {"pavise/hash/tree.cc": '#include "pavise/base/nothing.h"\n'}, "no such header"
        )

    def test_unknown_area(self):
        findings = self.check({"pavise/misc/x.h": ""})
        self.assertEqual(len(findings), 1, findings)
        self.assertIn("not in a known area", findings[0])

    def test_include_of_an_unknown_area(self):
        self.assert_refused(
            {"pavise/hash/tree.cc": '#include "pavise/misc/x.h"\n'}, "no area 'misc'"
        )

    def test_vendor_header_in_a_header(self):
        for vendor, header in {
            "OpenSSL": "openssl/evp.h",
            "p11-kit": "p11-kit/pkcs11.h",
            "liburing": "liburing.h",
            "CUDA": "cuda_runtime.h",
            "OpenCL": "CL/cl.h",
            "Open MPI": "mpi.h",
            "tpm2-tss": "tss2/tss2_esys.h",
            "libtorch": "torch/torch.h",
            "gRPC": "grpcpp/grpcpp.h",
            "SQLite": "sqlite3.h",
            "PostgreSQL": "pqxx/pqxx",
            "Highway": "hwy/highway.h",
        }.items():
            for form in (f"#include <{header}>\n", f'#include "{header}"\n'):
                with self.subTest(vendor=vendor, form=form):
                    self.assert_refused({"pavise/hash/tree.h": form}, f"({vendor}) in a header")
                    self.assertEqual(self.check({"pavise/hash/tree.cc": form}), [])

    def test_vendor_header_in_its_own_folder(self):
        self.assertEqual(self.check({"pavise/hash/cuda/device.h": "#include <cuda.h>\n"}), [])
        self.assert_refused(
            {"pavise/hash/cuda/device.h": "#include <openssl/evp.h>\n"}, "(OpenSSL) in a header"
        )

    def test_area_without_cmake_file(self):
        self.assert_refused(
            {"pavise/base/CMakeLists.txt": None}, "pavise/base/CMakeLists.txt: missing"
        )

    def test_link_to_an_area_above(self):
        tree = {
            "pavise/hash/CMakeLists.txt": "\npavise_area(hash SOURCES tree.cc tree_fuzz.cc\n"
            "  USES pavise_base pavise_crypto pavise_signing)",
        }
        findings = self.check(tree)
        self.assertEqual(len(findings), 2, findings)
        self.assertIn("hash may not link signing", findings[0])
        self.assertIn("nothing includes it", findings[1])

    def test_include_without_link(self):
        self.assert_refused(
            {"pavise/signing/sign.cc": '#include "pavise/crypto/keys.h"\n'},
            "USES has no pavise_crypto",
        )

    def test_link_without_include(self):
        self.assert_refused(
            {
                "pavise/signing/CMakeLists.txt": "\npavise_area(signing SOURCES sign.cc\n"
                "  USES pavise_hash pavise_base)"
            },
            "USES has pavise_base, but nothing includes it",
        )

    def test_link_to_nothing(self):
        findings = self.check(
            {
                "pavise/signing/CMakeLists.txt": "\npavise_area(signing SOURCES sign.cc\n"
                "  USES pavise_hash pavise_misc)"
            }
        )
        self.assertEqual(len(findings), 1, findings)
        self.assertIn("no such area", findings[0])

    # A folder of an area with a target of its own: what talks to devices apart from what does not.
    FOLDER = {
        "pavise/hash/CMakeLists.txt": "\npavise_area(hash_collect SOURCES collect/tpm.cc USES pavise_hash)",
        "pavise/hash/collect/tpm.h": '#include "pavise/hash/tree.h"\n',
        "pavise/hash/collect/tpm.cc": '#include "pavise/hash/collect/tpm.h"\n',
    }

    def test_folder_with_its_own_target(self):
        self.assertEqual(self.check(self.FOLDER), [])

    def test_folder_that_includes_more_than_it_links(self):
        self.assert_refused(
            self.FOLDER | {"pavise/hash/collect/tpm.cc": '#include "pavise/crypto/keys.h"\n'},
            "pavise/hash/collect/tpm.cc:1 includes crypto",
            "USES has no pavise_crypto",
        )

    def test_area_that_includes_its_folder(self):
        self.assert_refused(
            self.FOLDER | {"pavise/hash/tree.cc": '#include "pavise/hash/collect/tpm.h"\n'},
            "includes hash_collect, but USES has no pavise_hash_collect",
        )

    def test_area_that_links_its_folder(self):
        tree = self.FOLDER | {
            "pavise/hash/tree.cc": '#include "pavise/hash/collect/tpm.h"\n',
            "pavise/hash/CMakeLists.txt": self.FOLDER["pavise/hash/CMakeLists.txt"]
            + "\npavise_area(hash SOURCES tree.cc USES pavise_base pavise_crypto pavise_hash_collect)",
        }
        self.assert_refused(tree, "hash may not link hash_collect")

    def test_link_to_a_folder_of_another_area(self):
        linked = self.FOLDER | {
            "pavise/signing/CMakeLists.txt": "\npavise_area(signing SOURCES sign.cc\n"
            "  USES pavise_hash pavise_hash_collect)",
        }
        self.assert_refused(linked, "USES has pavise_hash_collect, but nothing includes it")
        self.assertEqual(
            self.check(linked | {"pavise/signing/sign.cc": '#include "pavise/hash/collect/tpm.h"\n'}),
            [],
        )

    def test_test_that_is_not_built(self):
        self.assert_refused(
            {"pavise/hash/tree_test.cc": ""}, "pavise/hash/tree_test.cc", "no CMake target"
        )

    def test_areas_added_in_another_order(self):
        with self.subTest("swapped"):
            swapped = "add_subdirectory(pavise/hash)\nadd_subdirectory(pavise/base)\n"
            findings = self.check({"CMakeLists.txt": swapped})
            self.assertEqual(len(findings), 1, findings)
            self.assertIn("not added lowest first", findings[0])

    def test_area_that_is_not_added(self):
        self.assert_refused(
            {
                "pavise/model/CMakeLists.txt": "pavise_area(model SOURCES tree.cc)",
                "pavise/model/tree.cc": "",
            },
            "pavise/model is not added",
        )


class TableTest(unittest.TestCase):
    def test_entries_are_areas_below(self):
        order = list(check_layers.AREAS)
        for area, uses in check_layers.AREAS.items():
            for used in uses:
                if used != check_layers.EVERYTHING:
                    with self.subTest(area=area, used=used):
                        below = order.index(used.split("/")[0])
                        self.assertLess(below, order.index(area))

    def test_folders(self):
        self.assertTrue(check_layers.may_use("broker", "pavise/evidence/appraise/tpm.h"))
        self.assertFalse(check_layers.may_use("broker", "pavise/evidence/collect/tpm.h"))
        self.assertFalse(check_layers.may_use("broker", "pavise/evidence/tpm.h"))
        self.assertTrue(check_layers.may_use("agent", "pavise/evidence/collect/tpm.h"))
        self.assertFalse(check_layers.may_use("agent", "pavise/broker/server.h"))
        self.assertTrue(check_layers.may_use("cli", "pavise/job/run.h"))
        self.assertTrue(check_layers.may_use("vault", "pavise/crypto/keys.h"))
        self.assertFalse(check_layers.may_use("base", "pavise/crypto/keys.h"))

    def test_the_documented_table(self):
        # docs/architecture.md shows the same table; one that drifts apart is worse than none.
        root = pathlib.Path(__file__).resolve().parent.parent
        document = (root / "docs/architecture.md").read_text()
        for area, uses in check_layers.AREAS.items():
            row = next(
                (line for line in document.splitlines() if line.startswith(f"| `{area}` |")), None
            )
            self.assertIsNotNone(row, f"docs/architecture.md has no row for {area}")
            shown = row.split("|")[3].strip()
            order = list(check_layers.AREAS)
            expected = (
                "everything"
                if uses == [check_layers.EVERYTHING]
                else ", ".join(
                    [a for a in ("base", "crypto") if order.index(a) < order.index(area)] + uses
                )
                or "nothing"
            )
            self.assertEqual(shown.replace("`", ""), expected, area)


class ContentHashesTest(unittest.TestCase):
    def test_changes_with_every_file_of_the_closure(self):
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            (root / "pavise/base").mkdir(parents=True)
            (root / "pavise/base/a.h").write_text('#include "pavise/base/b.h"\n')
            (root / "pavise/base/b.h").write_text('#include "pavise/base/a.h"\nint b;\n')
            (root / "pavise/base/c.h").write_text("int c;\n")
            before = includes.ContentHashes(root).closure_digest("pavise/base/a.h", "flags")
            self.assertEqual(
                before, includes.ContentHashes(root).closure_digest("pavise/base/a.h", "flags")
            )
            self.assertNotEqual(
                before, includes.ContentHashes(root).closure_digest("pavise/base/a.h", "other")
            )
            (root / "pavise/base/c.h").write_text("int other;\n")
            self.assertEqual(
                before, includes.ContentHashes(root).closure_digest("pavise/base/a.h", "flags")
            )
            (root / "pavise/base/b.h").write_text("int other;\n")
            self.assertNotEqual(
                before, includes.ContentHashes(root).closure_digest("pavise/base/a.h", "flags")
            )


if __name__ == "__main__":
    unittest.main()
