"""HDR to BT.709, against figures of the standards."""

import numpy as np
import pytest

from avmsnet_jax.media.hdr import HLG, PQ, to_bt709

# What a white page (203 cd/m2) is coded as: ITU-R BT.2408, table 1.
WHITE = {PQ: 0.58, HLG: 0.75}


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_grays_stay_gray_and_in_order(transfer):
    grays = np.linspace(0, 1, 101)[:, None].repeat(3, 1)
    mapped = to_bt709(grays, transfer)
    assert np.ptp(mapped, axis=1).max() < 0.002
    assert (np.diff(mapped[:, 1]) >= -1e-9).all()
    assert mapped[0].max() == 0
    assert mapped[-1].min() > 0.99


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_white_maps_to_nearly_white_and_dark_levels_stay(transfer):
    (white,) = to_bt709(np.full((1, 3), WHITE[transfer]), transfer)
    assert 0.9 < white[1] < 0.97
    if transfer == PQ:  # 26 cd/m2 (BT.2408: 18% gray is coded as 0.38)
        (gray,) = to_bt709(np.full((1, 3), 0.38), transfer)
        assert gray[1] ** 2.4 * 203 == pytest.approx(26, abs=1)


def test_colors_keep_their_hue():
    red, green, blue = to_bt709(np.array([[0.5, 0.3, 0.3], [0.3, 0.5, 0.3], [0.3, 0.3, 0.5]]), PQ)
    assert red.argmax() == 0
    assert green.argmax() == 1
    assert blue.argmax() == 2
