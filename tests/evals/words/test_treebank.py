import pytest

from mmjax.evals.words.treebank import tokenize, tokens

# Pairs that the Java program (Stanford CoreNLP 3.4.1, -preserveLines -lowerCase) gives.
PUBLISHED = [
    ("It's the dog's \"life\", isn't it? -- 50% off (sale)",
     "it 's the dog 's `` life '' , is n't it ? -- 50 % off -lrb- sale -rrb-"),
    ("a man's t-shirt; \"he said\": 'hello' there... and so on!!",
     "a man 's t-shirt ; `` he said '' : ` hello ' there ... and so on !!"),
    ("gonna gotta wanna cannot lemme gimme dunno 'tis 'twas don't can't won't I'm you're we've they'd she'll",
     "gon na got ta wan na can not lem me gim me dunno 't is 't was do n't ca n't wo n't i 'm you 're we 've they 'd "
     "she 'll"),
    ("1,000.50 3.5% $5.00 #1 & &amp; < > <br> </b> [x] {y} / * a/b 1/2 24/7 10:30 2x4 3-4 1980s '90s 60's",
     "1,000.50 3.5 % $ 5.00 # 1 & & < > <br> </b> -lsb- x -rsb- -lcb- y -rcb- / * a/b 1/2 24/7 10:30 2x4 3-4 1980s "
     "'90s 60 's"),
    ("half-eaten well-lit -dash dash- a -- b --- c a\u2013b a\u2014b \u201ccurly\u201d it\u2019s ... \u2026",
     "half-eaten well-lit - dash dash - a -- b -- c a -- b a -- b `` curly '' it 's ... ..."),
    ("O'Reilly o'clock rock'n'roll 'n' y'all ma'am d'etre l'art jack-o'-lantern",
     "o'reilly o'clock rock 'n' roll 'n' y' all ma'am d'etre l'art jack-o ' - lantern"),
    ("Mr. Smith on 5th Ave. and/or St. Paul's, etc. in the U.K.",
     "mr. smith on 5th ave. and/or st. paul 's , etc. in the u.k."),
    ("man,woman dog;cat a:b hello!world what?yes stop.Go \"quoted.\" ('x')",
     "man , woman dog ; cat a : b hello!world what?yes stop.go `` quoted . '' -lrb- ` x ' -rrb-"),
    ("the dogs' toys http://example.com/a?b=c www.foo.org me@x.com @user #tag :) black&white AT&T",
     "the dogs ' toys http://example.com/a?b=c www.foo.org me@x.com @user #tag :-rrb- black & white at&t"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PUBLISHED)
def test_tokens_of_the_published_program(text: str, expected: str) -> None:
    assert " ".join(tokens(text)) == expected


def test_punctuation_alone_is_dropped_but_brackets_stay() -> None:
    assert tokenize(["A man, (quietly) -- 'sits'!", "...", ""]) == ["a man -lrb- quietly -rrb- sits", "", ""]
