/* What kind of character a code point is, as tokenizers ask it. Pure, any thread.
 * Source: the Unicode character database as Python's unicodedata carries it (tools/unicode_table.py). */
#ifndef RUNG_ENGINE_UNICODE_H
#define RUNG_ENGINE_UNICODE_H

#include <stdbool.h>
#include <stdint.h>

/* Bits of a kind. UPPER and LOWER letters are LETTER too; a titlecase letter counts as UPPER. */
enum {
    UNICODE_OTHER = 0, UNICODE_LETTER = 1, UNICODE_MARK = 2, UNICODE_NUMBER = 4, UNICODE_PUNCT = 8,
    UNICODE_SYMBOL = 16, UNICODE_SPACE = 32, UNICODE_UPPER = 64 | UNICODE_LETTER, UNICODE_LOWER = 128 | UNICODE_LETTER
};
enum { UNICODE_UPPER_BIT = 64, UNICODE_LOWER_BIT = 128 };

/* The bits of a code point: \p{L}, \p{M}, \p{N}, \p{P}, \p{S} by general category, and SPACE by White_Space (\s).
 * Anything past 0x10FFFF is OTHER. */
uint8_t unicode_kind(uint32_t code);
/* The letters that the deepseek-llm pre-tokenizer's published expression lists. */
bool unicode_is_cased(uint32_t code);

#endif
