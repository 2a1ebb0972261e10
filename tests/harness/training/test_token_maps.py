"""Maps of labels move with their image; MixToken exchanges what it says, and un-mixes it."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from attnbench import recipes
from attnbench.errors import AttnbenchError
from attnbench.harness.models.backbone import create_model
from attnbench.harness.training.randomness import seed_sample
from attnbench.harness.training.token_labels import MixToken, smoothed
from attnbench.harness.training.token_maps import Crop, LabelledTransform, label_map, read_map

WHOLE = Crop(0.0, 0.0, 1.0, 1.0)


def quarters() -> torch.Tensor:
    """A map (2, 5, 4, 4) whose upper left shows class 1, upper right 2, lower left 3, lower right 4."""
    classes = torch.zeros(5, 4, 4)
    classes[0] = torch.tensor([[1, 1, 2, 2]] * 2 + [[3, 3, 4, 4]] * 2)
    classes[1:] = torch.tensor([5.0, 6, 7, 8])[:, None, None]
    logits = torch.zeros(5, 4, 4)
    logits[0] = 10.0
    return torch.stack([logits, classes])


def seen() -> torch.Tensor:
    return torch.arange(16).view(4, 4)


def test_every_token_gets_the_label_at_its_place() -> None:
    found = label_map(quarters(), seen(), WHOLE, 2, 9, "height_width")
    assert found.shape == (5, 9)
    torch.testing.assert_close(found.sum(1), torch.ones(5))
    assert found[1:].argmax(1).tolist() == [1, 2, 3, 4]
    # softmax over all classes: the eight others keep exp(0) each
    assert found[1, 1].item() == pytest.approx(float(torch.e) ** 10 / (float(torch.e) ** 10 + 8), rel=1e-5)
    assert found[0, 1:5].tolist() == pytest.approx([found[0, 1].item()] * 4)


@pytest.mark.parametrize(
    ("crop", "box", "shown"),
    [
        (Crop(0.0, 0.5, 0.5, 0.5), "height_width", 2),  # top right
        (Crop(0.5, 0.0, 0.5, 0.5), "height_width", 3),  # bottom left
        (Crop(0.0, 0.5, 0.5, 0.5), "released", 3),  # as the released code hands it on: axes exchanged
        (Crop(0.5, 0.5, 0.5, 0.5), "height_width", 4),
    ],
)
def test_a_crop_shows_what_lies_in_it(crop: Crop, box: str, shown: int) -> None:
    found = label_map(quarters(), seen(), crop, 2, 9, box)
    assert found.argmax(1).tolist() == [shown] * 5


def test_what_moved_out_of_the_image_shows_nothing() -> None:
    found = label_map(quarters(), torch.full((4, 4), -1), WHOLE, 2, 9, "height_width")
    torch.testing.assert_close(found, torch.full((5, 9), 1 / 9))


def test_the_map_follows_the_picture_through_flips_and_randaugment() -> None:
    """A picture whose colour says which class: whatever is drawn, labels and pixels agree in the middle."""
    colours = {1: (250, 0, 0), 2: (0, 250, 0), 3: (0, 0, 250), 4: (250, 250, 0)}
    picture = Image.new("RGB", (64, 64))
    for label, colour in colours.items():
        picture.paste(colour, ((label - 1) % 2 * 32, (label - 1) // 2 * 32, (label - 1) % 2 * 32 + 32, 64))
    recipe = recipes.get("lv_vit_s").augmentation.model_copy(
        update={"auto_augment": "rand-m9-n3-mstd0.5-inc1", "erasing": 0.0, "scale": (0.3, 1.0)}
    )
    transform = LabelledTransform(recipe, 32, (0.0,) * 3, (1.0,) * 3, 3)
    geometric = [
        op for op in transform.operations.ops if op.name.startswith(("Rotate", "Shear", "Translate"))
    ]
    transform.operations.ops = geometric
    agree = total = 0
    for number in range(60):
        seed_sample(number)
        pixels, moved, crop = transform(picture, 4, 4)
        labels = label_map(quarters(), moved, crop, 4, 9, "height_width")[1:].view(4, 4, 9)
        for row in (1, 2):
            for column in (1, 2):
                shares = labels[row, column]
                if shares.max() > 0.9:  # not at an edge between classes
                    pixel = pixels[:, row * 8 + 4, column * 8 + 4]
                    wanted = torch.tensor(colours.get(int(shares.argmax()), (0, 0, 0))) / 255
                    agree += int((pixel - wanted).abs().max() < 0.3)
                    total += 1
    assert total > 50
    assert agree / total > 0.85  # the map has 16 places, the picture 4,096


def test_files_that_are_no_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AttnbenchError, match=r"there is no map of labels .* expected in --token-labels"):
        read_map(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(b"none")
    with pytest.raises(AttnbenchError, match="cannot be read as a map of labels"):
        read_map(tmp_path / "a.pt")
    torch.save(torch.zeros(3), tmp_path / "a.pt")
    with pytest.raises(AttnbenchError, match="is no map of labels: expected a tensor"):
        read_map(tmp_path / "a.pt")
    with pytest.raises(AttnbenchError, match="has class 8, the data 5 classes"):
        label_map(quarters(), seen(), WHOLE, 2, 5, "height_width")


def test_mix_token_exchanges_a_box_and_unmixes_the_tokens() -> None:
    """With attention that moves nothing, un-mixed tokens are those of the unmixed images."""
    torch.manual_seed(0)
    model = create_model("swin_pico", "identity", num_classes=4, token_labels=True, img_size=64).eval()
    images = torch.randn(2, 1, 64, 64)
    for number in range(6):
        seed_sample(number)
        with torch.no_grad():
            logits, tokens, share = MixToken(model)(images)
            plain_logits, plain_tokens, whole = MixToken(model, mix=False)(images)
        assert whole == 1.0
        torch.testing.assert_close(tokens, plain_tokens)
        torch.testing.assert_close(plain_logits, model.forward_dense(images)[0])
        if 0 < share < 1:
            # mean pooling: the image's logits are mixed by area
            assert not torch.allclose(logits, plain_logits)
        assert share * 16 == pytest.approx(round(share * 16))


def test_models_without_a_head_for_tokens_are_refused() -> None:
    with pytest.raises(AttnbenchError, match="need a model with a head for tokens"):
        MixToken(create_model("swin_pico", "identity"))


def test_smoothing_spreads_a_share_over_all_classes() -> None:
    shares = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert smoothed(shares, 0.1).tolist()[0] == pytest.approx([0.925, 0.025, 0.025, 0.025])
