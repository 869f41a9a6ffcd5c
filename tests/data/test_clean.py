from mmjax.data import clean


def test_albef_removes_marks_and_blip_makes_most_of_them_blanks() -> None:
    text = "A man's T-shirt, w/ <person>: e.g. (red)!"
    assert clean.albef_caption(text) == "a mans t shirt w person eg red"
    assert clean.blip_caption(text) == "a man's t-shirt, w/ <person> e g red"
    assert clean.albef_question("Is it  a man's hat? ") == "is it  a mans hat"
    assert clean.blip_question("Is it  a man's hat?! ") == "is it  a man's hat?"


def test_words_beyond_the_cap_are_cut() -> None:
    assert clean.albef_caption(" ".join("abcdef"), 3) == "a b c"
    assert clean.CLEANERS["blip"](" ".join("abcdef"), 2) == "a b"
