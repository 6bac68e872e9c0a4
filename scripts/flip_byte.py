#!/usr/bin/env python3
"""Changes one byte of a file to its complement, in place. Twice is as if never (but for the times).

Usage: flip_byte.py FILE OFFSET
"""

import sys


def main(arguments):
    if len(arguments) != 3:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    offset = int(arguments[2])
    with open(arguments[1], "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        if not byte:
            print(f"{arguments[1]}: no byte {offset}", file=sys.stderr)
            return 1
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0xFF]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
