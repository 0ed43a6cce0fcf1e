"""Images as clients send them: base64 without a data URI. What they show, and whether that is an image, engines see."""

import asyncio
import binascii
from collections.abc import Sequence
from typing import Final

from libs.common.errors import InvalidRequest

MOST_IMAGES: Final = 100
DECODED_IN_THREAD_CHARACTERS: Final = 256 * 1024


async def check_images(images: Sequence[str]) -> None:
    """Raises ``InvalidRequest`` for what is not base64, and for too many."""
    if len(images) > MOST_IMAGES:
        raise InvalidRequest(f"a request must not have more than {MOST_IMAGES} images")
    if sum(map(len, images)) > DECODED_IN_THREAD_CHARACTERS:
        await asyncio.to_thread(_decode, images)
    else:
        _decode(images)


def _decode(images: Sequence[str]) -> None:
    for image in images:
        try:
            binascii.a2b_base64(image.translate(_LINE_BREAKS), strict_mode=True)
        except ValueError:
            raise InvalidRequest("illegal base64 data in images") from None


# Go's decoder passes over them.
_LINE_BREAKS: Final = {ord("\r"): None, ord("\n"): None}
