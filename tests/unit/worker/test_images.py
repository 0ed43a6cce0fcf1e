import base64

import pytest

from libs.common.contracts.inference import ChatMessage
from libs.common.errors import InvalidRequest
from services.worker.engines import images
from services.worker.engines.images import check_images, data_uri


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "webp"),
        (b"GIF89a", "gif"),
        (b"BM6", "bmp"),
    ],
)
def test_known_by_its_first_bytes(data: bytes, kind: str) -> None:
    assert data_uri(encoded(data)) == f"data:image/{kind};base64,{encoded(data)}"


@pytest.mark.parametrize(
    "image", ["", encoded(b"hello"), encoded(b"RIFF\x00\x00\x00\x00WAVE"), "no base64!", "é", "aaa"]
)
def test_what_is_no_image(image: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid image input"):
        data_uri(image)


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    image = encoded(b"GIF89a")
    check_images([ChatMessage(role="user", images=(image,) * 64)])
    with pytest.raises(InvalidRequest, match="too many"):
        check_images([ChatMessage(role="user", images=(image,) * 32) for _ in range(3)])
    monkeypatch.setattr(images, "LARGEST_IMAGE_BYTES", 4)
    with pytest.raises(InvalidRequest, match="larger than"):
        check_images([ChatMessage(role="user", images=(image,))])
