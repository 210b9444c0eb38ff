"""Hostile images, made on the spot: small files that announce, or unpack to, much."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name, data=b""):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def repeated(row, count):
    """The zlib stream of `count` rows: one block of them, packed once, again and again."""
    at_once = max(1, (1 << 20) // len(row))
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(row * at_once) + packer.flush(zlib.Z_FULL_FLUSH)
    blocks, left = divmod(count, at_once)
    rest = packer.compress(row * left) + packer.flush()
    check = 1
    for _ in range(blocks):
        check = zlib.adler32(row * at_once, check)
    check = zlib.adler32(row * left, check)
    return b"\x78\xda" + block * blocks + rest + struct.pack(">I", check)


def png(width, height, depth=8, colour=2, before=b"", middle=b""):
    bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    data = repeated(bytes(1 + (width * bits + 7) // 8), height)
    return SIGNATURE + before + header + middle + palette + chunk(b"IDAT", data) + chunk(b"IEND")


def texts(count):
    """Compressed texts of a PNG, each of which unpacks to 8 MB."""
    data = b"key\0\0" + repeated(bytes(1_000_000), 8)[:-4] + bytes(4)
    return b"".join(chunk(b"zTXt", data) for _ in range(count))


def gif(width, height, screen, interlaced=False):
    """One frame of zeros, whose size may be another than the screen's. Each code stands for one zero more."""
    codes = []
    left = width * height
    while left > 0:
        codes += [(4, 12 if codes else 3), (0, 3)]  # 4 begins the table anew
        left -= 1
        size = 3
        for code in range(6, 4096):
            if left <= 0:
                break
            codes.append((code, size))
            left -= code - 4
            if code + 1 == 1 << size and size < 12:
                size += 1
    codes.append((5, size))
    number = 0
    data = bytearray()
    filled = 0
    for code, size in codes:
        number |= code << filled
        filled += size
        while filled >= 8:
            data.append(number & 255)
            number >>= 8
            filled -= 8
    data.append(number)
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    head = b"GIF89a" + struct.pack("<2H3B", *screen, 0x80, 0, 0) + bytes(6)
    return head + b"\x2c" + struct.pack("<4HB", 0, 0, width, height, 0x40 * interlaced) + b"\x02" + blocks + b"\0\x3b"


def segment(marker, data):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(width, height, frame=0xC2, scans=1, components=3):
    """A progressive JPEG of many scans, each of one code that skips 32,767 blocks."""
    numbers = range(1, components + 1)
    parts = [b"\xff\xd8", segment(0xDB, b"\0" + bytes([1]) * 64)]
    layout = b"".join(bytes([number, 0x11, 0]) for number in numbers)
    parts.append(segment(frame, struct.pack(">B2HB", 8, height, width, components) + layout))
    parts.append(segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\x00"))
    parts.append(segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + (b"\xe0" if frame == 0xC2 else b"\x00")))
    blocks = max(1, -(-width // 8) * -(-height // 8))
    chosen = bytes([components]) + b"".join(bytes([number, 0]) for number in numbers)
    whole = bytes([0, 0 if frame == 0xC2 else 63, 0])
    parts += [segment(0xDA, chosen + whole), bytes(-(-blocks * components * 2 // 8))]
    bits = ("0" + "1" * 14) * -(-blocks // 32767)
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    for number in range(scans - 1):
        parts += [segment(0xDA, bytes([1, 1 + number % components, 0, 1, 63, 0x10])), data]
    return b"".join([*parts, b"\xff\xd9"])
