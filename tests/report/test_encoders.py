from contramask.report.encoders import completed, short_labels


def label(sizes="128x6/4", heads=4, mlp=4, side=32):
    return f"{sizes}, {heads} heads, MLP {mlp}, {side}x{side} px"


def test_one_encoder_needs_no_label():
    assert short_labels([label(), label()]) == {label(): ""}
    assert short_labels([]) == {}


def test_labels_show_only_what_differs():
    sizes = short_labels([label(), label("192x12/4", heads=3)])
    assert list(sizes.values()) == ["128x6/4", "192x12/4"]
    assert short_labels([label(), label(mlp=2)]) == {label(): "MLP 4", label(mlp=2): "MLP 2"}
    assert short_labels([label(), label(side=64)])[label(side=64)] == "64x64 px"
    three = short_labels([label(), label(heads=8), label("192x12/4")])
    assert three == {
        label(): "128x6/4, 4 heads",
        label(heads=8): "128x6/4, 8 heads",
        label("192x12/4"): "192x12/4, 4 heads",
    }


def test_a_label_that_says_less_is_kept_where_two_can_be_meant():
    old = "128x6/4"
    assert completed([old, label(), label("192x12/4")])[old] == label()
    assert completed([old, label("192x12/4")])[old] == old
    both = [old, label(), label(heads=8)]
    assert completed(both)[old] == old
    assert set(short_labels(both).values()) == {old, "4 heads", "8 heads"}
