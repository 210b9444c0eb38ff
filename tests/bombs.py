"""Hostile images, made on the spot: small files that announce, or unpack to, much."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

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


PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png(width, height, depth=8, colour=2, before=b"", middle=b"", interlaced=False, filtered=0):
    """Black, or transparent, throughout; each row is filtered by `filtered`."""
    bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlaced))
    palette = chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    if interlaced:
        sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in PASSES]
        data = repeated(b"\0", sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes))
    else:
        data = repeated(bytes([filtered]) + bytes((width * bits + 7) // 8), height)
    return SIGNATURE + before + header + middle + palette + chunk(b"IDAT", data) + chunk(b"IEND")


def webp(width, height, alpha=False, lossless=False):
    buffer = io.BytesIO()
    colour = (1, 2, 3, 128) if alpha else (1, 2, 3)
    image = Image.new("RGBA" if alpha else "RGB", (width, height), colour)
    image.save(buffer, "WEBP", lossless=lossless, quality=0, method=0)
    return buffer.getvalue()


def bmp(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "BMP")
    return buffer.getvalue()


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


def turned(orientation):
    """The EXIF segment of a JPEG that is turned."""
    tag = struct.pack(">2HI2H", 0x0112, 3, 1, orientation, 0)
    return segment(0xE1, b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + tag + bytes(4))


def jpeg(width, height, frame=0xC2, scans=1, components=3, before=b""):
    """A progressive JPEG of many scans, each of one code that skips 32,767 blocks."""
    numbers = range(1, components + 1)
    parts = [b"\xff\xd8", before, segment(0xDB, b"\0" + bytes([1]) * 64)]
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


def samples():
    """Small images of every kind."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 20, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [
        ("JPEG", {"exif": exif}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ]  # fmt: skip
    found = []
    for kind, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found.append(buffer.getvalue())
    return [*found, png(20, 24, 16, 6), png(20, 24, 8, 3, middle=texts(1)), jpeg(24, 24, scans=9)]


def mutated(contents, draw):
    """`contents` with a few bytes changed, put in or taken out, as `draw`, a random.Random, says."""
    data = bytearray(contents)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(len(data), 64))
        way = draw.randrange(4)
        if way == 0:
            data[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif way == 1:
            data[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\x80\0"))
        elif way == 2:
            data[at:at] = data[at : at + draw.randint(1, 40)]
        else:
            del data[at : at + draw.randint(1, 40)]
        data = data or bytearray(b"x")
    return bytes(data)
