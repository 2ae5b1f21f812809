#!/usr/bin/env python3
"""Writes engine/unicode_table.h from Python's unicodedata: what kind each code point is, as ranges.

usage: python3 tools/unicode_table.py > engine/unicode_table.h

Only the general category is taken (letters by case, marks, numbers, punctuation, symbols); white space is a short
list in engine/unicode.c. CASED is the letter class of the deepseek-llm pre-tokenizer, which its published regular
expression spells out range by range (the cased letters of an older Unicode, so it cannot be taken from the category).
"""
import sys
import unicodedata

KINDS = {"Lu": "UPPER", "Lt": "UPPER", "Ll": "LOWER", "Lm": "LETTER", "Lo": "LETTER", "Mn": "MARK", "Mc": "MARK",
         "Me": "MARK", "Nd": "NUMBER", "Nl": "NUMBER", "No": "NUMBER", "Pc": "PUNCT", "Pd": "PUNCT", "Ps": "PUNCT",
         "Pe": "PUNCT", "Pi": "PUNCT", "Pf": "PUNCT", "Po": "PUNCT", "Sm": "SYMBOL", "Sc": "SYMBOL", "Sk": "SYMBOL",
         "So": "SYMBOL"}

CASED = ("A-Z a-z µ À-Ö Ø-ö ø-ƺ Ƽ-ƿ Ǆ-ʓ ʕ-ʯ Ͱ-ͳ Ͷ ͷ ͻ-ͽ Ϳ Ά Έ-Ί Ό Ύ-Ρ Σ-ϵ Ϸ-ҁ Ҋ-ԯ Ա-Ֆ Ⴀ-Ⴥ Ꭰ-Ᏽ ᏸ-ᏽ Ა-Ჺ Ჽ-Ჿ ᴀ-ᴫ ᵫ-ᵷ ᵹ-ᶚ "
         "Ḁ-ἕ Ἐ-Ἕ ἠ-ὅ Ὀ-Ὅ ὐ-ὗ Ὑ Ὓ Ὕ \u1f5f-\u1f7d ᾀ-ᾴ ᾶ-ᾼ \u1fbe ῂ-ῄ ῆ-ῌ ῐ-\u1fd3 ῖ-\u1fdb ῠ-Ῥ ῲ-ῴ ῶ-ῼ ℂ ℇ ℊ-ℓ ℕ ℙ-ℝ ℤ \u2126 ℨ "
         "\u212a-ℭ ℯ-ℴ ℹ ℼ-ℿ ⅅ-ⅉ ⅎ Ↄ ↄ Ⰰ-ⱻ Ȿ-ⳤ Ⳬ-ⳮ Ⳳ ⳳ Ꙁ-ꙭ Ꚁ-ꚛ Ꜣ-ꝯ ꝱ-ꞇ Ꞌ-ꞎ ꭰ-ꮿ ﬀ-ﬆ ﬓ-ﬗ Ａ-Ｚ ａ-ｚ 𐐀-𐑏 𐒰-𐓓 𐓘-𐓻 "
         "𐲀-𐲲 𐳀-𐳲 𑢠-𑣟 𞤀-𞥃")


def rows(items, per_line):
    for i in range(0, len(items), per_line):
        print("    " + " ".join(items[i:i + per_line]))


def ranges(text):
    pairs = []
    for word in text.split():
        assert len(word) == 1 or (len(word) == 3 and word[1] == "-"), word
        pairs.append((ord(word[0]), ord(word[-1])))
    assert all(a <= b for a, b in pairs) and all(a[1] < b[0] for a, b in zip(pairs, pairs[1:]))
    return pairs


def main():
    print("/* Made by tools/unicode_table.py; Unicode %s. Do not edit. */" % unicodedata.unidata_version)
    print("#ifndef RUNG_ENGINE_UNICODE_TABLE_H\n#define RUNG_ENGINE_UNICODE_TABLE_H\n\n#include \"engine/unicode.h\"\n")
    print("/* Each range goes up to the next one's start. */")
    print("static const struct {\n    uint32_t start;\n    uint8_t kind;\n} UNICODE_RANGES[] = {")
    items, last = [], None
    for code in range(0x110000):
        kind = KINDS.get(unicodedata.category(chr(code)), "OTHER")
        if kind != last:
            items.append("{0x%X, UNICODE_%s}," % (code, kind))
            last = kind
    rows(items, 4)
    print("};\n")
    print("/* Pairs of first and last: the letters of deepseek-llm's pre-tokenizer. */")
    print("static const uint32_t UNICODE_CASED[][2] = {")
    rows(["{0x%X, 0x%X}," % pair for pair in ranges(CASED)], 6)
    print("};\n\n#endif")
    return 0


if __name__ == "__main__":
    sys.exit(main())
