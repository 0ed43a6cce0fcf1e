"""Images of a request: base64 as clients send them, data URIs as engines read them."""

import binascii
from collections.abc import Sequence
from typing import Final

from libs.common.contracts.inference import ChatMessage
from libs.common.errors import InvalidRequest

MOST_IMAGES: Final = 64
LARGEST_IMAGE_BYTES: Final = 20 << 20

# What the first bytes of a picture say it is. WEBP has its length between its two marks.
_MARKS: Final = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"BM": "bmp"}


def count_images(messages: Sequence[ChatMessage]) -> int:
    return sum(len(message.images) for message in messages)


def check_images(messages: Sequence[ChatMessage]) -> None:
    """Every image, whole: run it in a thread. Raises ``InvalidRequest`` for too many, too large, or no image."""
    if count_images(messages) > MOST_IMAGES:
        raise InvalidRequest(f"too many images: at most {MOST_IMAGES} are allowed")
    for message in messages:
        for image in message.images:
            if len(image) * 3 // 4 > LARGEST_IMAGE_BYTES:
                raise InvalidRequest(f"an image is larger than {LARGEST_IMAGE_BYTES >> 20} MiB")
            _kind(image)


def data_uri(image: str) -> str:
    """Raises ``InvalidRequest`` if the base64 does not hold an image."""
    return f"data:image/{_kind(image)};base64,{image}"


def _kind(image: str) -> str:
    try:
        data = binascii.a2b_base64(image.encode(), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidRequest("invalid image input: it is not base64") from None
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    for mark, kind in _MARKS.items():
        if data.startswith(mark):
            return kind
    raise InvalidRequest("invalid image input: only PNG, JPEG, WEBP, GIF and BMP are images")
