"""Layouts and configurations are data that name what exists."""

from dataclasses import replace

import pytest

from attnbench import AttnbenchError, UnknownNameError, layouts, names
from attnbench.configurations import CONFIGURATIONS, PUBLISHED, Configuration, find
from attnbench.layouts import get_layout
from attnbench.layouts.biformer import BIFORMER_SMALL
from attnbench.layouts.swin import SWIN_T


def test_digests_tell_layouts_apart() -> None:
    digests = {layout.digest() for layout in map(layouts.get_layout, layouts.names())}
    assert len(digests) == len(layouts.names())
    assert all(len(digest) == 16 for digest in digests)


def test_digest_covers_all_but_the_title() -> None:
    assert replace(SWIN_T, title="another").digest() == SWIN_T.digest()
    for change in ({"num_classes": 10}, {"norm_eps": 1e-6}, {"defaults": {"bra": {"topk": 1}}}):
        assert replace(SWIN_T, **change).digest() != SWIN_T.digest()  # type: ignore[arg-type]


def test_a_layout_of_unknown_parts_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown stem 'conv'"):
        replace(SWIN_T, stem="conv")
    with pytest.raises(AttnbenchError, match="stride of 4, got patch_size 2"):
        replace(BIFORMER_SMALL, patch_size=2)


def test_map_sizes_are_rounded_up() -> None:
    assert SWIN_T.map_sizes(200, 304) == [(50, 76), (25, 38), (13, 19), (7, 10)]


def test_configurations_name_what_exists() -> None:
    for configuration in CONFIGURATIONS.values():
        assert get_layout(configuration.layout).name == configuration.layout
        assert configuration.mechanism in names()
    assert set(PUBLISHED.values()) <= set(CONFIGURATIONS)


def test_models_are_found_by_configuration_or_by_layout_and_mechanism() -> None:
    assert find("biformer_s") == CONFIGURATIONS["biformer_s"]
    assert find("biformer_stl_overlapped_cross_shaped") == Configuration(
        "biformer_stl_overlapped", "cross_shaped"
    )
    with pytest.raises(UnknownNameError, match="unknown model 'biformer_ss'; did you mean biformer_s"):
        find("biformer_ss")
