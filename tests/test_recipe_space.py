    assert {one.class_weights for one in recipes} == {"none"}, "no named space searches them"
    for extra in set(EXTRAS) - {"class_weights"}:
        assert len({one.extra(extra) for one in recipes}) > 1, extra

